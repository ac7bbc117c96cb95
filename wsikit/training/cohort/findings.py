"""What the checks of a cohort found: one line each, all of them before anything starts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from wsikit.errors import RequestError

Level = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """One remark about a cohort."""

    level: Level
    """error: nothing starts. warning: probably wrong, refused with `--strict`. note: what was done."""
    text: str
    """One line: the file, what was found, what to do."""

    def __str__(self) -> str:
        return f"{self.level}: {self.text}"


@dataclass
class Findings:
    """Collects remarks about one table."""

    place: str
    """The file, with which each line begins."""
    found: list[Finding] = field(default_factory=list)

    def error(self, text: str) -> None:
        self.found.append(Finding("error", f"{self.place}: {text}"))

    def warning(self, text: str) -> None:
        self.found.append(Finding("warning", f"{self.place}: {text}"))

    def note(self, text: str) -> None:
        self.found.append(Finding("note", f"{self.place}: {text}"))

    @property
    def failed(self) -> bool:
        return any(one.level == "error" for one in self.found)


def refuse(findings: tuple[Finding, ...], *, strict: bool, message: Callable[[str], None] = lambda text: None) -> None:
    """Report every finding through `message`, then refuse the cohort if one is an error, or a warning with `strict`.

    Raises
    ------
    RequestError
        With the number of findings and the first of them.
    """
    for one in findings:
        message(str(one))
    bad = [one for one in findings if one.level == "error" or (strict and one.level == "warning")]
    if bad:
        more = f" ({len(bad) - 1} more above)" if len(bad) > 1 else ""
        raise RequestError(bad[0].text + more)
