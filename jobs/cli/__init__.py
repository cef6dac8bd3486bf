"""The `recsys` command, one module for each group of subcommands."""
