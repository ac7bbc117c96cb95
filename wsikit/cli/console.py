"""The console of the verbs: colours and the width of the window on a terminal, whole lines in a pipe or a file."""

from __future__ import annotations

from collections.abc import Callable

import click
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


def encoded_in_tenths() -> Callable[[int, int], None]:
    """A function that reports every tenth of the images that an encoder has done."""
    before = 0

    def report(done: int, total: int) -> None:
        nonlocal before
        if before * 10 // total != done * 10 // total:
            click.echo(f"features: {done} of {total}", err=True)
        before = done

    return report
