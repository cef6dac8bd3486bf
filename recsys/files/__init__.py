"""Rating, item and user files, read into checked rows."""
