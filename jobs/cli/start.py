"""The entry point of the `recsys` command. It imports nothing slow before Ctrl-C is handled."""

import sys


def main() -> None:
    """Run the command; Ctrl-C ends it without a traceback even while modules are imported."""
    try:
        from jobs.cli.main import main as run_command

        run_command()
    except KeyboardInterrupt:
        sys.stderr.write("recsys: interrupted\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
