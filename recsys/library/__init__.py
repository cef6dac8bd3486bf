"""The parts of `Learner`: ratings from anywhere, users in memory, and files."""
