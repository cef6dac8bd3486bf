"""One frozen, typed object for everything that is configured from outside."""

import os
from collections.abc import Mapping
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Literal, Self

from dotenv import dotenv_values
from pydantic import Field, FiniteFloat, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from recsys.errors import InputError


def parse_event_weights(text: str, option: str = "--event-weights") -> dict[str, float]:
    """Return `view=1,cart=3` as a mapping.

    Raises:
        InputError: a part is not NAME=NUMBER, or a number is negative.
    """
    weights: dict[str, float] = {}
    for part in text.split(","):
        name, equals, number = part.strip().rpartition("=")
        try:
            weight = float(number)
        except ValueError:
            weight = -1.0
        if not equals or not name.strip() or not 0 <= weight <= 1e6:
            raise InputError(f"{option} {part}: expected NAME=NUMBER, such as view=1,cart=3,purchase=5; correct it")
        weights[name.strip()] = weight
    return weights


RATE_COUNTS = "RECSYS_RATE_COUNTS"
"""The environment variable with the file in which the processes of `recsys serve` count requests together, which it
sets itself."""


class Settings(BaseSettings):
    """Settings from `RECSYS_…` environment variables and a `.env` file in the working directory.

    >>> Settings(database_url="sqlite:///shop.db").database_url
    'sqlite:///shop.db'

    Read once, at the edge, by `load_settings`; inside, values arrive as arguments.
    """

    model_config = SettingsConfigDict(env_prefix="RECSYS_", env_file=".env", frozen=True, extra="ignore")

    database_url: str = Field(
        default="sqlite:///recsys.db",
        description="The database: sqlite:///FILE or postgresql://USER:PASSWORD@HOST/DATABASE.",
    )
    rating_min: FiniteFloat | None = Field(
        default=None, description="Lowest possible rating; by default inferred from the ratings."
    )
    rating_max: FiniteFloat | None = Field(
        default=None, description="Highest possible rating; by default inferred from the ratings."
    )
    event_weights: str = Field(
        default="",
        description="How much each event over HTTP counts, such as view=1,cart=3,purchase=5; others count 1.",
    )
    gate_margin: float = Field(
        default=0.02,
        ge=0,
        le=1,
        description="How much worse than the live version a new version may be, as a share of the live version's "
        "metric (lower 95 % bound of the difference).",
    )
    checkpoints: Path = Field(
        default=Path(".recsys/checkpoints"),
        description="Folder for checkpoints; a training that was killed continues from its checkpoint.",
    )
    lease_seconds: FiniteFloat = Field(
        default=60.0,
        ge=1,
        le=86_400,
        description="Seconds that a job which was killed keeps others of its kind from starting. A running job renews "
        "its lease every quarter of them.",
    )
    erasure_journal: Path | None = Field(
        default=None,
        description="File that notes each erasure of a user, hashed, so that a restore of an older backup erases "
        "again; by default the SQLite file's name with .erasures.",
    )
    keep_versions: int = Field(
        default=2,
        ge=1,
        description="Versions of each objective that passed the gate and that `nightly` keeps. The live version and "
        "the one that a rollback returns to always stay.",
    )
    keep_days: float = Field(
        default=30.0, gt=0, description="Age in days above which `nightly` deletes a version that need not stay."
    )
    source_url: str | None = Field(
        default=None,
        repr=False,
        description="The other database that `load --from-query` reads, as SQLAlchemy names it.",
    )
    report_dir: Path | None = Field(
        default=None, description="Folder that `nightly` writes report.html to; none: it writes no report."
    )
    notify_url: str | None = Field(
        default=None, description="Address that receives the summary of each night by POST, as JSON."
    )
    notify_command: str | None = Field(
        default=None, description="Command that receives the summary of each night on its standard input, as JSON."
    )
    refresh_seconds: float = Field(
        default=0.5, gt=0, description="Seconds between two looks of a server for changes by other processes."
    )
    user_cache_mib: int = Field(default=40, ge=0, description="Memory of each server process for cached users, in MiB.")
    search_threads: int = Field(
        default=0,
        ge=0,
        le=2,
        description="Threads of a server process that search lists: 1 or 2; by default 2 where `recsys serve` has two "
        "processors for each process, otherwise 1.",
    )
    max_requests: int = Field(
        default=512,
        ge=1,
        description="Most requests that a server process works on at once; more are answered with 503.",
    )
    rate_limit: str = Field(
        default="",
        pattern=r"^([1-9][0-9]{0,8}/([1-9][0-9]{0,4} ?)?(second|minute|hour)s?)?$",
        description="Most requests of one key, user of a token or address in a time, such as 600/minute; by default "
        "not limited. The processes of one `recsys serve` count together.",
    )
    max_connections: int = Field(
        default=1024,
        ge=1,
        description="Most connections of one address to a server process; those of this machine are not limited.",
    )
    keep_alive_seconds: float = Field(
        default=75.0,
        ge=1,
        description="Seconds that an idle connection stays open; longer than a proxy keeps its own, so that it never "
        "sends a request into one that closes.",
    )
    dashboard: bool = Field(
        default=True, description="Whether `recsys serve` offers the dashboard, where `recsys[dashboard]` is installed."
    )
    traces: bool = Field(
        default=False,
        description="Whether `recsys serve` sends traces of requests to an OpenTelemetry collector, with "
        "`recsys[traces]`; the SDK's own settings, such as OTEL_EXPORTER_OTLP_ENDPOINT, say where to.",
    )
    max_body_kib: int = Field(default=4096, ge=1, description="Largest request body, in KiB.")
    drain_seconds: float = Field(
        default=30.0, ge=0, description="Seconds that a stopping server waits for running requests."
    )
    notice_seconds: float = Field(
        default=0.0,
        ge=0,
        description="Seconds that a stopping server still accepts requests while /health/ready answers 503, so that "
        "load balancers stop sending new ones.",
    )
    key_required: bool = Field(
        default=False, description="Whether the API needs a key even if no key was ever created."
    )
    allowed_hosts: str = Field(
        default="",
        pattern=r"^[A-Za-z0-9._:,\[\]-]*$",
        description="Names under which the service answers, separated by commas, such as recs.example.com; by default "
        "every name, or only those of this machine where it listens on a loopback address and no key was ever created.",
    )
    cors_origins: str = Field(
        default="",
        pattern=r"^(https?://[^\s,/]+(,https?://[^\s,/]+)*)?$",
        description="Origins of web pages whose scripts may call the API, separated by commas, such as "
        "https://shop.example.com; by default none.",
    )
    root_path: str = Field(
        default="",
        pattern=r"^(/[A-Za-z0-9._~-]+)*$",
        description="Prefix of all paths behind a reverse proxy, such as /recsys, which the proxy may take away.",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="DEBUG, INFO, WARNING or ERROR."
    )

    @property
    def rating_scale(self) -> tuple[float, float] | None:
        """Lowest and highest rating, if both are configured."""
        if self.rating_min is None or self.rating_max is None:
            return None
        return self.rating_min, self.rating_max

    @property
    def names_of_allowed_hosts(self) -> list[str]:
        """`allowed_hosts` as a list."""
        return [name for name in self.allowed_hosts.split(",") if name]

    @property
    def names_of_cors_origins(self) -> list[str]:
        """`cors_origins` as a list."""
        return [origin for origin in self.cors_origins.split(",") if origin]

    @cached_property
    def weights_of_events(self) -> dict[str, float]:
        """How much each event over HTTP counts."""
        return parse_event_weights(self.event_weights, "RECSYS_EVENT_WEIGHTS") if self.event_weights else {}

    @field_validator("event_weights")
    @classmethod
    def _event_weights_are_numbers(cls, text: str) -> str:
        try:
            parse_event_weights(text or "view=1", "RECSYS_EVENT_WEIGHTS")
        except InputError as error:
            raise ValueError(str(error)) from error
        return text

    @model_validator(mode="after")
    def _scale_is_ordered(self) -> Self:
        if self.rating_min is not None and self.rating_max is not None and self.rating_min >= self.rating_max:
            raise ValueError(
                f"RECSYS_RATING_MIN ({self.rating_min}) must be below RECSYS_RATING_MAX ({self.rating_max})"
            )
        return self


def check_names(environment: Mapping[str, str], env_file: Path) -> None:
    """Check that no setting is misspelt.

    A name in the file that begins with RECSYS_ must be a setting. In the environment, where others add variables too,
    only a name that is nearly a setting is refused.

    Raises:
        InputError: names the setting, and the one that was probably meant.
    """
    known = [f"RECSYS_{name.upper()}" for name in Settings.model_fields]
    in_file = [name.upper() for name in dotenv_values(env_file) if name.upper().startswith("RECSYS_")]
    for where, names, cutoff in ((str(env_file), in_file, 0.6), ("the environment", list(environment), 0.9)):
        for name in names:
            near = get_close_matches(name, known, n=1, cutoff=cutoff)
            if name not in known and name.startswith("RECSYS_") and (near or where == str(env_file)):
                meant = f": did you mean {near[0]}?" if near else ": see the table of settings in docs/operations.md"
                raise InputError(f"{where} sets {name}, which is no setting{meant}")


def load_settings() -> Settings:
    """Return the settings of this process.

    >>> load_settings().database_url                                    # doctest: +SKIP

    Raises:
        InputError: a variable has a value that cannot be used; the message names it.
    """
    check_names(os.environ, Path(".env"))
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        name = "RECSYS_" + str(first["loc"][0]).upper() if first["loc"] else "settings"
        raise InputError(f"{name}: {first['msg']}; mend it in the environment or in .env") from error
