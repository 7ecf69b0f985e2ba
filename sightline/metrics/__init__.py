"""Official metrics on flat arrays: reset, update, compute."""
