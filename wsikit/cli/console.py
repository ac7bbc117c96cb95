"""The console of the verbs: colours and the width of the window on a terminal, whole lines in a pipe or a file."""

from __future__ import annotations

from rich.console import Console

PIPE_WIDTH = 10_000
"""Columns of a line where no terminal shows it: paths are never wrapped, so that they can be searched and copied."""


def one_line(text: str) -> str:
    """`text` with control characters and line breaks as visible escapes: file names may contain any character.

    >>> one_line("a\\nb"), one_line("naïve")
    ('a\\\\nb', 'naïve')
    """
    shown = (char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)
    return "".join(shown)


def make_console(*, stderr: bool = False) -> Console:
    """A console on standard output (or standard error)."""
    console = Console(stderr=stderr, highlight=False)
    return console if console.is_terminal else Console(stderr=stderr, highlight=False, width=PIPE_WIDTH)
