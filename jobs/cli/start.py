"""The entry point of the `recsys` command. It imports nothing slow before Ctrl-C is handled."""

import gc
import sys


def main() -> None:
    """Run the command; Ctrl-C ends it without a traceback even while modules are imported."""
    try:
        gc.disable()  # imports leave nothing to free, and looking for it takes a fifth of their time
        from jobs.cli.main import main as run_command

        gc.freeze()
        gc.enable()
        run_command()
    except KeyboardInterrupt:
        sys.stderr.write("recsys: interrupted\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
