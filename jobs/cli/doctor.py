"""`recsys doctor`: look at everything that a night needs."""

import typer

from jobs.cli.options import JsonOption


def doctor_command(json: JsonOption = False) -> None:
    """Check database, schema, live versions, disk, device, memory, leases and the last night.

    Prints one line for each, with the fix where something is wrong. Changes nothing. The exit code is 1 if a check
    failed; a warning does not count.

        recsys doctor
        recsys doctor --json
    """
    from jobs.cli.show import show
    from jobs.doctor import diagnose
    from recsys.settings import load_settings

    found = diagnose(load_settings())
    show(found, json)
    if not found.healthy:
        raise typer.Exit(1)
