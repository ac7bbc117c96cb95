"""The slides and settings of the last run in a folder, from its run.json."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wsikit.batch.entry import SlideEntry
from wsikit.batch.plan import RUN_FILE
from wsikit.errors import RequestError, WsikitError
from wsikit.executor import Executor

_AGAIN = "Run the command of that run again, with --only-failed."


def read_request(out: str | os.PathLike[str]) -> tuple[tuple[SlideEntry, ...], dict[str, Any]]:
    """The slides of the last run in `out`, and the keyword arguments of `wsikit.run` that give its settings.

    Where they are computed (`device`, `workers`, `scheduler`) is not recorded.

    Raises
    ------
    RequestError
        There is no run in `out`; or a setting cannot be restored: the model or captioner was an object of a program, or
        is another one now.

    Examples
    --------
    >>> import tempfile, wsikit
    >>> folder = tempfile.mkdtemp()
    >>> _ = wsikit.make_phantom(f"{folder}/slide.tiff", size_px=(700, 700))
    >>> _ = wsikit.run(f"{folder}/slide.tiff", f"{folder}/out", min_tissue=0.5)
    >>> slides, settings = read_request(f"{folder}/out")
    >>> [slide.slide_id for slide in slides], settings["min_tissue"]
    (['slide'], 0.5)
    """
    path = Path(out) / RUN_FILE
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        entries = tuple(SlideEntry(**_tuples(one)) for one in record["slides"])
        settings = _settings(record["configuration"])
        fingerprint = record["model_fingerprint"]
    except FileNotFoundError:
        raise RequestError(f"{path}: there is no such file; expected the output folder of wsikit run") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RequestError(f"{path}: damaged, or of an older version ({error!r}). {_AGAIN}") from error
    _check(path, settings, record["configuration"], fingerprint)
    return entries, settings


def _settings(record: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments of `run` from the JSON of `RunParameters`."""
    from wsikit.captions.registry import CaptionerOptions
    from wsikit.inference.budget import Budget
    from wsikit.tiling.plan import ImageParameters
    from wsikit.tissue.parameters import TissueParameters
    from wsikit.voting.parameters import VoteParameters

    options, budget, stain = record["captioner_options"], record["caption_budget"], record["stain"]
    settings: dict[str, Any] = {
        "model": record["model"],
        "captioner": record["captioner"],
        "captioner_options": CaptionerOptions(**options) if options else None,
        "caption_budget": None if budget is None else Budget(**budget),
        "vote": VoteParameters.from_json(_tuples(record["vote"])),
        "tissue": TissueParameters(**record["tissue"]),
        "image": ImageParameters(**_tuples(record["image"])),
        "stain": None if stain is None else stain["spec"],
        "roi_classes": tuple(record["roi_classes"]),
        "features": tuple(record.get("features", ())),
        "concepts": record.get("concepts"),
        "without": record.get("without"),
    }
    for name in ("overlap_px", "min_tissue", "min_roi", "roi_frame", "features_dtype", "features_precision"):
        if name in record:
            settings[name] = record[name]
    return settings


def _check(path: Path, settings: Mapping[str, Any], expected: Mapping[str, Any], fingerprint: str) -> None:
    """RequestError unless a run with these settings would have the same configuration and model."""
    from wsikit.batch.plan import changed
    from wsikit.batch.prepare import prepare

    no_slide = SlideEntry("", "of-no-slide")  # settings are checked before any slide is opened
    try:
        found = prepare([no_slide], path.parent, executor=Executor(), **settings)
    except WsikitError as error:
        raise RequestError(f"{path}: the settings cannot be restored ({error}) {_AGAIN}") from error
    differences = [f"{name}: {old} → {new}" for name, old, new in changed(expected, found.record)]
    if found.model.info.fingerprint != fingerprint:
        differences.append(f"model files: {fingerprint} → {found.model.info.fingerprint}")
    if differences:
        raise RequestError(f"{path}: the settings cannot be restored ({'; '.join(differences[:3])}). {_AGAIN}")


def _tuples(record: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has lists where the parameters have tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in record.items()}
