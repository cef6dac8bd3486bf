"""Schema migrations (Alembic). Run by `recsys init`, and by `recsys load` on an empty SQLite database."""
