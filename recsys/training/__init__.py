"""Everything that needs torch: models, objectives, the training loop, and searches for good settings."""
