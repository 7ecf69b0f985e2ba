"""Each task joins a model, its targets and losses, its data and its metric."""
