"""One check of an installation, and how its outcome is found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Check:
    """The outcome of one test of the installation."""

    group: str
    name: str
    ok: bool
    needed: bool
    """True if the main job, `wsikit run`, does not work without it."""
    found: str
    fix: str = ""
    """What to do about it."""
    pip: str = ""
    """Requirement that installs what is missing, as pip reads it."""


def attempted(group: str, name: str, needed: bool, attempt: Callable[[], str], fix: str, pip: str = "") -> Check:
    """A check that passes with the text that `attempt` returns, and fails with the error that it raises."""
    try:
        return Check(group, name, True, needed, attempt())
    except Exception as error:  # any failure is a finding, and the next check is run
        return Check(group, name, False, needed, one_line(error), fix, pip)


def one_line(error: Exception) -> str:
    """What an error says, in one line."""
    return shorten(str(error) or type(error).__name__)


def shorten(text: str) -> str:
    """`text` in one line of at most 200 characters."""
    text = " ".join(text.split())
    return text if len(text) <= 200 else f"{text[:199]}…"
