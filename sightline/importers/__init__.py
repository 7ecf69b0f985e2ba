"""Other projects' configurations and checkpoints. May import recipes, models and config."""
