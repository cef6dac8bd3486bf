"""Everything that touches rows: tables, files, and ratings as arrays."""
