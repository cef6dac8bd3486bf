"""Checks of everything that a night and a server need, each with its fix."""

import os
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from sqlalchemy import Engine

from jobs.machine import n_processors
from recsys.database import migration
from recsys.database.alarms import read_alarms
from recsys.database.engine import connect, is_sqlite, reading, server_version, write_problem
from recsys.database.leases import held_leases
from recsys.database.models import live_numbers, load_factors, version
from recsys.database.runs import read_runs
from recsys.errors import DamagedVersionError, RecsysError
from recsys.results import Check, Diagnosis, as_time
from recsys.settings import Settings
from recsys.training.devices import pick_device

LATE_HOURS = 36.0
"""Hours since the last night above which something is wrong with the schedule."""

BYTES_PER_RATING = 200
"""Memory that a night needs for each rating, roughly: the ratings, their split, and the state of a training."""


def diagnose(settings: Settings) -> Diagnosis:
    """Run all checks. Nothing is changed, and a missing database is not created."""
    checks: list[Check] = []
    engine = connect(settings.database_url, create=False)
    try:
        checks.append(guarded("database", lambda: check_database(engine)))
        if checks[0].status != "failed":
            checks.append(guarded("schema", lambda: check_schema(engine)))
            if checks[1].status != "failed":
                for name, look in (
                    ("live versions", check_versions),
                    ("leases", check_leases),
                    ("last night", check_last_night),
                    ("memory", check_memory),
                ):
                    checks.append(guarded(name, partial(look, engine)))
        checks.append(guarded("disk", lambda: check_disk(engine, settings)))
        checks.append(guarded("device", check_device))
    finally:
        engine.dispose()
    return Diagnosis(healthy=all(check.status != "failed" for check in checks), checks=checks)


def guarded(name: str, look: Callable[[], Check]) -> Check:
    """Return a check, or its failure if it raises."""
    try:
        return look()
    except RecsysError as error:
        return Check(name=name, status="failed", found=str(error))


def check_database(engine: Engine) -> Check:
    """Look whether the database answers and takes writes."""
    if is_sqlite(engine) and not Path(engine.url.database or "").exists():
        fix = "Run `recsys load PATH` or `recsys init`, or name another database with RECSYS_DATABASE_URL"
        return Check(name="database", status="failed", found=f"{engine.url.database} is not there", fix=fix)
    found = f"{engine.url.render_as_string(hide_password=True)}, {server_version(engine)}"
    problem = write_problem(engine)
    if problem is not None:
        fix = "Make the file and its folder writable for this user, or free disk space"
        return Check(name="database", status="warning", found=f"{found}: {problem}", fix=fix)
    return Check(name="database", status="ok", found=found)


def check_schema(engine: Engine) -> Check:
    """Look whether the tables are those of this version."""
    current, head = migration.current_revision(engine), migration.head_revision()
    if current != head:
        found = f"the tables have revision {current or 'none'}, this version needs {head}"
        return Check(name="schema", status="failed", found=found, fix="Run `recsys init`")
    return Check(name="schema", status="ok", found=f"revision {head}")


def check_versions(engine: Engine) -> Check:
    """Load every live version and compare it with its checksums."""
    with reading(engine) as connection:
        live = live_numbers(connection)
        if not live:
            return Check(
                name="live versions", status="warning", found="none is live", fix="Run `recsys nightly` after a load"
            )
        unverified = []
        for objective, number in live.items():
            try:
                load_factors(connection, number)
            except DamagedVersionError as error:
                fix = f"Run `recsys models rollback --objective {objective}`, or `recsys train --objective {objective}`"
                return Check(name="live versions", status="failed", found=str(error), fix=fix)
            if version(connection, number).checksum is None:
                unverified.append(str(number))
    found = ", ".join(f"{objective} {number}" for objective, number in live.items())
    if unverified:
        fix = "The next night that publishes stores checksums"
        return Check(
            name="live versions", status="warning", found=f"{found}; no checksum: {', '.join(unverified)}", fix=fix
        )
    return Check(name="live versions", status="ok", found=f"{found}; checksums match")


def check_leases(engine: Engine) -> Check:
    """Look which jobs run now."""
    with reading(engine) as connection:
        held = held_leases(connection)
    if not held:
        return Check(name="leases", status="ok", found="none is held")
    found = "; ".join(f"{job} by {holder}, for {left / 1000:.0f} s unless renewed" for job, holder, left in held)
    return Check(name="leases", status="ok", found=found)


def check_last_night(engine: Engine) -> Check:
    """Look how the last night ended, and when."""
    with reading(engine) as connection:
        nights = read_runs(connection, 1, "nightly")
    if not nights:
        fix = "Run `recsys nightly`, and put it into cron"
        return Check(name="last night", status="warning", found="there was none", fix=fix)
    [night] = nights
    hours = (time.time() - night.started_at / 1000) / 3600
    outcome = ": ".join(filter(None, (night.status, night.reason)))
    found = f"run {night.number}, {as_time(night.started_at):%Y-%m-%d %H:%M} UTC, {outcome}"
    if night.status == "failed":
        fix = "Run `recsys nightly`" if night.exit_code is None else f"See `recsys runs show {night.number}`"
        return Check(name="last night", status="failed", found=found, fix=fix)
    if hours > LATE_HOURS:
        fix = "Check cron, or the timer that should have started it"
        return Check(name="last night", status="warning", found=f"{found}; {hours:.0f} hours ago", fix=fix)
    return Check(name="last night", status="ok", found=found)


def check_memory(engine: Engine) -> Check:
    """Compare the memory that is free with what a night needs."""
    with reading(engine) as connection:
        needed = 500_000_000 + BYTES_PER_RATING * read_alarms(connection).n_ratings
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():  # free pages alone leave out what the system would give back
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        free = int(lines.get("MemAvailable", f"{free // 1024} kB").split()[0]) * 1024
    found = f"{free / 1e9:.1f} GB available, a night needs about {needed / 1e9:.1f} GB"
    if free < needed:
        fix = "Stop other processes, or train on a larger machine"
        return Check(name="memory", status="warning", found=found, fix=fix)
    return Check(name="memory", status="ok", found=found)


def check_disk(engine: Engine, settings: Settings) -> Check:
    """Compare the free space with the size of the database: a night may write as much again."""
    file = Path(engine.url.database or "") if is_sqlite(engine) else None
    folder = settings.checkpoints if file is None else file.parent
    while not folder.exists():
        folder = folder.absolute().parent
    free = shutil.disk_usage(folder).free
    size = file.stat().st_size if file is not None and file.exists() else 0
    needed = size + 200_000_000
    found = f"{free / 1e9:.1f} GB free at {folder.absolute()}"
    if free < needed:
        fix = "Free disk space, or run `recsys models prune --keep 1`"
        return Check(name="disk", status="failed", found=f"{found}, a night needs {needed / 1e9:.1f} GB", fix=fix)
    return Check(name="disk", status="ok", found=found)


def check_device() -> Check:
    """Look what trainings run on."""
    device = pick_device("auto")
    threads = n_processors()
    return Check(name="device", status="ok", found=f"{device.type}, {threads} CPU cores")
