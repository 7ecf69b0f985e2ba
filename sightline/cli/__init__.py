"""The command line: text in, one call of the api, an exit code out."""
