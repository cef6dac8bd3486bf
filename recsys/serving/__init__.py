"""Answering: one immutable snapshot of the live versions, and the state of one user."""
