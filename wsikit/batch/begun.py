"""Marks of the slides that are in work: slides/.ID.begun.json, with the stage, written under the slide's lock.

A mark is removed when its slide is done or has failed, also when a run is stopped. So a mark whose lock is free was
left by a process that died: killed from outside, or crashed in a library written in C, perhaps by this very slide.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from wsikit.store.atomic import is_our_partial

_HIDDEN = re.compile(r"\.(?P<slide_id>.+)\.(?:begun\.json|slide\.json|zarr)\.[0-9a-f]{32}\.partial$")
_TRACEBACK = re.compile(r"(?P<slide_id>.+)\.txt\.[0-9a-f]{32}\.partial$")


@dataclass(frozen=True)
class Begun:
    """What is known of a slide whose work was begun and has not ended."""

    stage: str
    """The stage that it was in; "opening" before the first one, "unknown" if the mark was cut off."""


def write_begun(out: Path, slide_id: str, stage: str) -> None:
    """State that the slide is in this stage. The caller holds the slide's lock.

    Written in place: a mark that is cut off still says that the slide was begun, and there are several per second.
    """
    record = {"stage": stage, "pid": os.getpid(), "host": socket.gethostname()}
    path = _path(out, slide_id)
    with open(path, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(json.dumps(record) + "\n")


def read_begun(out: Path, slide_id: str) -> Begun | None:
    """The mark of a slide; None if there is none."""
    try:
        text = _path(out, slide_id).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
    try:
        return Begun(str(json.loads(text)["stage"]))
    except (ValueError, KeyError, TypeError):
        return Begun("unknown")


def clear_begun(out: Path, slide_id: str) -> None:
    """The slide is no longer in work."""
    _path(out, slide_id).unlink(missing_ok=True)


def lock_of(out: Path, slide_id: str) -> FileLock:
    """The slide's lock. The operating system releases it when its process ends: a lock is never stale."""
    path = out / "slides" / f".{slide_id}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path, blocking=False)


def remove_left_partials(out: Path) -> None:
    """Remove temporary files that killed runs left in slides/ and failures/, of slides that no run is working on."""
    for folder, pattern in ((out / "slides", _HIDDEN), (out / "failures", _TRACEBACK)):
        for left in _children(folder):
            found = pattern.fullmatch(left.name) if is_our_partial(left.name) else None
            if found is None:
                continue
            with contextlib.suppress(Timeout, OSError), lock_of(out, found["slide_id"]):
                if left.is_dir():
                    shutil.rmtree(left)
                else:
                    left.unlink(missing_ok=True)


def _children(folder: Path) -> list[Path]:
    try:
        return [Path(entry.path) for entry in os.scandir(folder)]
    except OSError:
        return []


def _path(out: Path, slide_id: str) -> Path:
    return out / "slides" / f".{slide_id}.begun.json"
