"""Checkpoints of a run: transformers' folders checkpoint-<step>, and a record that a resumed run must match."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wsikit.errors import RequestError
from wsikit.store.atomic import names_in, write_json

logger = logging.getLogger(__name__)

RUN_FILE = "run.json"
STATE_FILE = "trainer_state.json"
"""transformers writes this file last, so a checkpoint that has it is complete."""


def prepare(folder: Path, run: Mapping[str, Any], *, resume: bool) -> Path | None:
    """Prepare `folder` for a run described by `run`; return the checkpoint to resume from, if there is one.

    Parameters
    ----------
    run
        Everything that determines the weights, JSON-ready: settings, schedule, data. A run resumes only if this is
        unchanged.
    resume
        True: resume, or start if there is no run. False: the folder must hold no run.

    Raises
    ------
    RequestError
        If there are checkpoints and `resume` is False, or they are of another run.
    """
    known = folder / RUN_FILE
    if not known.is_file():
        if found := names_in(folder):
            # not written by wsikit: our folder is removed with its content at the end of a run
            raise RequestError(f"{folder}: holds {found[0]} without {RUN_FILE}; give another folder.")
        folder.mkdir(parents=True, exist_ok=True)
        write_json(known, dict(run))
        return None
    if not resume:
        raise RequestError(f"{folder}: holds an unfinished run. Resume it (--resume), or give another folder.")
    before = json.loads(known.read_text(encoding="utf-8"))
    now = json.loads(json.dumps(run))
    if other := sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key)):
        raise RequestError(
            f"{folder}: the unfinished run here differs in {', '.join(other)}. Resume it unchanged, or "
            "give another folder."
        )
    whole = []
    for checkpoint in folder.glob("checkpoint-*"):
        if read_state(checkpoint) is None:
            logger.info("%s: incomplete (the run stopped while writing it); removed", checkpoint)
            shutil.rmtree(checkpoint)
        else:
            whole.append(checkpoint)
    return max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def read_state(checkpoint: Path) -> dict[str, Any] | None:
    """The trainer's state in a checkpoint, or None if the checkpoint is incomplete."""
    try:
        return dict(json.loads((checkpoint / STATE_FILE).read_text(encoding="utf-8")))
    except (OSError, json.JSONDecodeError):
        return None


def digest(*pieces: bytes) -> str:
    """sha256 over all pieces, hexadecimal."""
    found = hashlib.sha256()
    for piece in pieces:
        found.update(hashlib.sha256(piece).digest())
    return found.hexdigest()
