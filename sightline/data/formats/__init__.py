"""Readers of the real file formats; each turns a bad file into an error with file and place."""
