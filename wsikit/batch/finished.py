"""Whether a slide is finished: decided from small files and a listing of the store; neither slide nor store is opened.

When a slide is done, results/<slide_id>/finished.json records what was asked for, the source's fingerprint, and the
names and sizes of all files of its store and results. A later run with the same request and the same files skips the
slide. With any difference, the slide goes through all stages, and each stage decides by its own receipt.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from wsikit._version import __version__
from wsikit.batch.manifest import SlideEntry
from wsikit.batch.records import DONE, SlideRow, read_row
from wsikit.store.atomic import write_json
from wsikit.store.receipts import digest_of

MARK = "finished.json"
FORMAT = 1


def mark_finished(out: Path, entry: SlideEntry, request: str) -> None:
    """Record that the slide is finished for `request` (the digest of `slide_request`)."""
    folder = out / "results" / entry.slide_id
    state = {"format": FORMAT, "request": request, "files": _files(out, entry.slide_id)}
    # not flushed: if a power cut leaves it cut off, the stages of the slide compare their receipts
    write_json(folder / MARK, state, sync=False)


def unmark(out: Path, slide_id: str) -> None:
    """Remove the record: the slide is being processed and not finished until it is marked again."""
    (out / "results" / slide_id / MARK).unlink(missing_ok=True)


def finished_row(out: Path, entry: SlideEntry, request: str) -> SlideRow | None:
    """The row of a slide that is finished for `request`, or None if anything is missing or different."""
    try:
        mark = json.loads((out / "results" / entry.slide_id / MARK).read_text(encoding="utf-8"))
        row = read_row(out, entry.slide_id)
    except (OSError, ValueError, TypeError):
        return None
    if mark.get("format") != FORMAT or mark.get("request") != request or row is None or row.status != DONE:
        return None
    return row if mark.get("files") == _files(out, entry.slide_id) else None


def slide_request(entry: SlideEntry, parameters: dict[str, Any], model: str, captioner: dict[str, Any]) -> str:
    """Digest of everything that determines a slide's results.

    Settings, model and captioner; the slide file, its sidecar with the pixel size, its regions of interest; and the
    revisions of all stages.

    Raises
    ------
    OSError
        The slide file or its regions cannot be read.
    """
    from wsikit.batch.revisions import REVISIONS
    from wsikit.slides.fingerprint import fingerprint
    from wsikit.slides.scale import sidecar_path

    roi = None if entry.roi is None else hashlib.sha256(Path(entry.roi).read_bytes()).hexdigest()
    sidecar = Path(sidecar_path(entry.path))
    scale = hashlib.sha256(sidecar.read_bytes()).hexdigest() if sidecar.is_file() else None
    chosen = {} if entry.reader is None else {"reader": entry.reader}
    return digest_of(
        chosen
        | {
            "slide": [entry.path, entry.mpp, entry.mpp_source, entry.assume_mpp, roi, scale],
            "scene": None if entry.scene is None else str(entry.scene),
            "source": fingerprint(entry.path),
            "parameters": parameters,
            "model": model,
            "captioner": captioner,
            "revisions": REVISIONS,
            "wsikit": __version__,
        }
    )


def _files(out: Path, slide_id: str) -> str:
    """Digest of the names and sizes of all files of a slide's store and results."""
    digest = hashlib.sha256()
    for folder in (out / "slides" / f"{slide_id}.zarr", out / "results" / slide_id):
        for line in sorted(_sizes(str(folder), len(str(out)) + 1)):
            digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _sizes(folder: str, prefix: int) -> list[str]:
    lines: list[str] = []
    for entry in os.scandir(folder):
        if entry.is_dir(follow_symlinks=False):
            lines += _sizes(entry.path, prefix)
        elif entry.name not in (MARK, "row.json"):
            lines.append(f"{entry.path[prefix:]}:{entry.stat().st_size}\n")
    return lines
