"""Everything that needs torch: models, objectives, the training loop, and how good the result is."""
