"""Steps, precision, schedules, checkpoints and callbacks. Never heard of boxes."""
