"""Things made when they are first used: names of a package (PEP 562), and values that are expensive to make."""

from __future__ import annotations

import importlib
import logging
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

T = TypeVar("T")

logger = logging.getLogger(__name__)


def lazy_names(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """The module-level `__getattr__` of `package`.

    Parameters
    ----------
    homes
        Public name to the module that defines it; `module:name` where it has another name there.
    """

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, _, attribute = homes[name].partition(":")
        value = getattr(importlib.import_module(module), attribute or name)
        setattr(sys.modules[package], name, value)
        return value

    return get


class Once(Generic[T]):
    """A value that is made when it is first asked for, once, whichever thread asks.

    Attributes
    ----------
    error
        What making it raised; the next call raises the same again without trying.

    >>> numbers = Once(lambda: print("made") or 7)
    >>> numbers(), numbers()
    made
    (7, 7)
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._values: list[T] = []
        self._failed_once = False
        self.error: Exception | None = None

    @property
    def made(self) -> T | None:
        """The value if it was made already, else None."""
        return self._values[0] if self._values else None

    def __call__(self) -> T:
        with self._lock:
            if self.error is not None:
                raise self.error
            if not self._values:
                try:
                    self._values.append(self._make())
                except Exception as error:
                    self.error = error
                    raise
            return self._values[0]

    def attempt(self) -> None:
        """Make the value if nothing was tried yet. An error counts for nothing: the next call tries again."""
        with self._lock:
            if self.error is None and not self._values:
                try:
                    self._values.append(self._make())
                except Exception:
                    self._failed_once = True
                    logger.debug("made ahead: failed", exc_info=True)

    def check(self) -> None:
        """Raise the error of an `attempt` that failed, if it fails again."""
        if self._failed_once and not self._values:
            self()


def make_ahead(*values: Once[Any]) -> threading.Thread:
    """Make values in a thread of their own, one after the other, while the caller does other work.

    Whoever needs one of them waits for it. An error is raised where the value is needed, as if nothing had been tried.
    The process does not end before the thread does: torch must not be cut off while it is imported.
    """

    def work() -> None:
        for value in values:
            value.attempt()

    thread = threading.Thread(target=work, name="wsikit-ahead")
    thread.start()
    return thread
