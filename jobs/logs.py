"""Logs: lines for people on a terminal, one JSON object a line everywhere else."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message", "taskName"}


_encode = json.JSONEncoder(default=str, ensure_ascii=False).encode
"""Returns a line as JSON. `json.dumps` with arguments makes an encoder each time."""


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON: time in UTC, level, logger, message, and whatever `extra` it carries."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: value for name, value in vars(record).items() if name not in _STANDARD}
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return _encode(line)


class PlainFormatter(logging.Formatter):
    """A record as a line for people, with what `extra` it carries behind it."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        extra = " ".join(f"{name}={value}" for name, value in vars(record).items() if name not in _STANDARD)
        return f"{super().format(record)} {extra}".rstrip()


def logging_config(level: str) -> dict[str, Any]:
    """Return a configuration for `logging.config.dictConfig`: everything to stderr, at one level."""
    formatter = "plain" if sys.stderr.isatty() else "json"
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"plain": {"()": PlainFormatter}, "json": {"()": JsonFormatter}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": formatter}},
        "root": {"handlers": ["stderr"], "level": level.upper()},
        "loggers": {"alembic": {"level": "WARNING"}},
    }
