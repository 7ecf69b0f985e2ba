"""Self-checking configuration trees: base class, files, overrides, errors."""
