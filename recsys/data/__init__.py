"""Ratings and features as arrays, and the rows that files and the database exchange."""
