"""Send the summary of a night to a webhook, to a command, or to both."""

import shlex
import subprocess
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from recsys.errors import InputError, RecsysError
from recsys.results import NightlyReport, NightNotice
from recsys.settings import Settings

WEBHOOK_SECONDS = 10.0
COMMAND_SECONDS = 60.0


class NotifyError(RecsysError):
    """The summary could not be sent."""


def notify(settings: Settings, report: NightlyReport) -> list[str]:
    """Send the summary, as JSON with a field `text` for people, to whom the settings name.

    The webhook receives it by POST, the command on its standard input.

    Returns:
        What it was sent to: `webhook`, `command`.

    Raises:
        InputError: the URL is no HTTP URL.
        NotifyError: the webhook or the command failed; the other one was tried all the same.
    """
    body = NightNotice(text=summary_of(report), night=report).model_dump_json().encode()
    sent: list[str] = []
    problems: list[str] = []
    if settings.notify_url:
        if urlsplit(settings.notify_url).scheme not in ("http", "https"):
            raise InputError("RECSYS_NOTIFY_URL: expected an address that begins with https:// or http://")
        request = Request(settings.notify_url, body, {"Content-Type": "application/json"}, method="POST")
        try:
            with urlopen(request, timeout=WEBHOOK_SECONDS):
                sent.append("webhook")
        except (URLError, OSError) as error:  # the address may hold a secret, so it is not named
            problems.append(f"the webhook of RECSYS_NOTIFY_URL failed: {error}")
    if settings.notify_command:
        try:
            subprocess.run(
                shlex.split(settings.notify_command),
                input=body,
                timeout=COMMAND_SECONDS,
                check=True,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
            sent.append("command")
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            problems.append(f"the command of RECSYS_NOTIFY_COMMAND failed: {error}")
    if problems:
        raise NotifyError("; ".join(problems))
    return sent


def summary_of(report: NightlyReport) -> str:
    """Return a night in one paragraph for people."""
    parts = [f"recsys nightly {report.started_at:%Y-%m-%d %H:%M} UTC: {report.status} after {report.seconds:.0f} s"]
    parts += [each.line() for each in report.objectives]
    parts += [f"error: {report.error}"] if report.error else []
    n_inserted = sum(load.inserted for load in report.loads)
    n_rejected = sum(load.rejected for load in report.loads)
    if report.loads:
        parts.append(f"{n_inserted:,} ratings inserted, {n_rejected:,} rows rejected")
    return ". ".join(parts)
