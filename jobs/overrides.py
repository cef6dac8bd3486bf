"""Settings of a training from `--set NAME=VALUE` and from `[train]` in `recsys.toml`."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

from recsys.errors import InputError
from recsys.results import Objective
from recsys.training.config import Config

FILE = Path("recsys.toml")
"""In the working directory."""
SETTABLE = tuple(field.name for field in fields(Config) if field.name not in ("objective", "architecture"))


def read_overrides(objective: Objective, pairs: Sequence[str] = (), file: Path = FILE) -> dict[str, Any]:
    """Return the settings of `Config` that a person chose: those of the file, and `pairs` in place of them.

    The table `[train]` holds for both objectives, `[train.ranking]` and `[train.rating]` for one.

    Args:
        pairs: each `NAME=VALUE`; several in one text are separated by commas, and the widths of layers by `x`: 64x32.

    Raises:
        InputError: the file is not TOML, a setting does not exist, or a value is of another type.
    """
    chosen: dict[str, Any] = {}
    if file.is_file():
        try:
            table = tomllib.loads(file.read_text(encoding="utf-8")).get("train", {})
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
            raise InputError(f"{file}: not TOML ({error}): correct it, or delete it") from error
        if not isinstance(table, Mapping):
            raise InputError(f"{file}: train is not a table: expected [train] and lines such as weight_decay = 0.3")
        common = {name: value for name, value in table.items() if name not in get_args(Objective)}
        for name, value in {**common, **table.get(objective, {})}.items():
            chosen[name] = checked(f"{file}: {name}", name, value)
    for pair in ",".join(pairs).split(",") if pairs else ():
        name, equals, text = (part.strip() for part in pair.partition("="))
        if not equals or not text:
            raise InputError(f"--set {pair}: expected NAME=VALUE, such as weight_decay=0.3; correct it")
        chosen[name] = checked(f"--set {pair}", name, parse_value(text))
    return chosen


def parse_value(text: str) -> object:
    """Return a text as a truth value, a whole or other number, or widths such as 64x32; else as it is."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    parts = text.split("x")
    if all(part.isascii() and part.isdigit() for part in parts):
        return int(text) if len(parts) == 1 else [int(part) for part in parts]
    try:
        return float(text)
    except ValueError:
        return text


def checked(where: str, name: str, value: object) -> Any:
    """Return a value with the type of its setting.

    Raises:
        InputError: there is no such setting, or the value is of another type.
    """
    if name not in SETTABLE:
        raise InputError(f"{where}: there is no such setting: expected one of {', '.join(SETTABLE)}; correct it")
    kind = str({field.name: field.type for field in fields(Config)}[name])
    if "bool" in kind:
        good, expected = isinstance(value, bool), "true or false"
    elif "tuple" in kind:
        value = [value] if isinstance(value, int) and not isinstance(value, bool) else value
        good = isinstance(value, list) and all(isinstance(width, int) for width in value)
        expected = "widths of layers such as 64x32, in a file [64, 32]"
    elif "int" in kind:
        good, expected = isinstance(value, int) and not isinstance(value, bool), "a whole number"
    else:
        good, expected = isinstance(value, int | float) and not isinstance(value, bool), "a number"
    if not good:
        raise InputError(f"{where}: {value!r} is of another type: expected {expected}; correct it")
    return value
