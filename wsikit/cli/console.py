"""The console of the verbs: colours and the width of the window on a terminal, whole lines in a pipe or a file."""

from __future__ import annotations

from rich.console import Console

PIPE_WIDTH = 10_000
"""Columns of a line where no terminal shows it: paths are never wrapped, so that they can be searched and copied."""


def make_console(*, stderr: bool = False) -> Console:
    """A console on standard output (or standard error)."""
    console = Console(stderr=stderr, highlight=False)
    return console if console.is_terminal else Console(stderr=stderr, highlight=False, width=PIPE_WIDTH)
