"""`recsys audit`: who changed what."""

from typing import Annotated

import typer

from jobs.cli.options import JsonOption, open_database


def audit_command(
    actor: Annotated[str | None, typer.Option(help="Only entries of this key or person.")] = None,
    action: Annotated[str | None, typer.Option(help="Only this action, such as 'publish' or 'erase user'.")] = None,
    days: Annotated[float | None, typer.Option(min=0, help="Only entries of the last days.")] = None,
    n: Annotated[int, typer.Option("--n", "-n", min=1, max=100_000, help="Number of entries.")] = 20,
    verify: Annotated[
        bool, typer.Option("--verify", help="Check that no entry was removed or changed; ends with 1 if one was.")
    ] = False,
    known: Annotated[
        str | None, typer.Option(metavar="HASH", help="With --verify: a hash that it printed before, kept elsewhere.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """List what was changed: keys, items, versions, erasures and restores, the newest first.

    Each entry has the hash of the one before. `--verify` finds an entry that was removed or changed, and prints the
    last hash. Keep it elsewhere: with `--known` it later shows whether somebody wrote the whole log anew.

        recsys audit
        recsys audit --action 'erase user' --days 30 --json
        recsys audit --verify
        recsys audit --verify --known 5f2d…
    """
    from dataclasses import asdict

    from jobs.cli.show import show
    from recsys.database import audit
    from recsys.database.clock import now_ms
    from recsys.database.engine import reading
    from recsys.results import AuditCheck, AuditEntries, AuditEntry, as_time

    if known is not None and not verify:
        raise typer.BadParameter("--known: give --verify too")
    engine, _ = open_database()
    with reading(engine) as connection:
        if verify:
            check = AuditCheck(**asdict(audit.verify(connection, known)))
            show(check, json)
            raise typer.Exit(0 if check.problem is None else 1)
        since = None if days is None else now_ms() - round(days * 86_400_000)
        found = audit.entries(connection, n, actor=actor, action=action, since=since)
    entries = [AuditEntry(**{**asdict(entry), "at": as_time(entry.at)}) for entry in found]
    show(AuditEntries(entries=entries), json)
