"""One definition of a score and of a list: exact search, exclusions, ties, and fold-in. numpy only."""
