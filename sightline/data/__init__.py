"""Files to samples to batches."""
