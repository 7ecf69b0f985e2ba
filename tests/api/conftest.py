"""The run of the command line's tests."""

from tests.cli.conftest import workplace

__all__ = ["workplace"]
