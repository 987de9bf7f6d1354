"""The command line: one file a command, nothing heavy imported before a command runs."""

from fastchar.cli.app import app, main

__all__ = ["app", "main"]
