"""One definition of a list: score, exclusion and ties, for evaluation and serving alike."""
