"""Reading strangers' files safely, and writing our own whole or not at all."""
