"""Images for training: in memory or decoded meanwhile, varied, in batches."""
