"""A run as data: the slides, the stages of each, what is complete, what is to be done and why.

A plan is made without changing anything on disk and without loading a model. It can be printed (`wsikit run
--dry-run`), is written to run.json, and is compared with the plan of the previous run.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from wsikit._version import versions
from wsikit.batch.finished import finished_row, slide_request
from wsikit.batch.manifest import SlideEntry
from wsikit.errors import StoreError, WsikitError
from wsikit.models.protocol import ModelInfo
from wsikit.store.format2_names import PARAMETERS

if TYPE_CHECKING:
    from wsikit.batch.slide_work import SlideWork
    from wsikit.batch.stages import Stage
    from wsikit.store.receipts import Receipt

State = Literal["done", "missing", "redo", "skipped", "unknown"]

RUN_FILE = "run.json"

BYTES_PER_S = 30e6
PATCHES_PER_S = {"quality": 400.0, "captions": 60.0, "predictions": 40.0}
"""Rough rates of one CPU core with the packaged model, used until earlier runs in OUT give measured rates."""


@dataclass(frozen=True)
class PlannedStage:
    """One stage of one slide."""

    name: str
    needs: tuple[str, ...]
    gives: tuple[str, ...]
    where: str
    """workers, device or driver."""
    state: State
    """done: up to date, kept; missing: not there, or incomplete; redo: made from other inputs; skipped: not for this
    slide; unknown: depends on a captioner that is not loaded for a plan."""
    reason: str = ""
    repair: bool = False
    """Files that were lost are made again with the same content: what depends on them is kept."""


@dataclass(frozen=True)
class PlannedSlide:
    """One slide of a plan."""

    entry: SlideEntry
    stages: tuple[PlannedStage, ...] = ()
    finished: bool = False
    """Decided from the record of its last run (`wsikit.batch.finished`); its stages are not checked."""
    n_patches: int | None = None
    """Rows of its patch table; an upper bound if `patches_exact` is False."""
    patches_exact: bool = False
    source_bytes: int | None = None
    seconds: float | None = None
    """Estimated time of what is to be done."""
    fault: str = ""
    """Why it cannot be planned: it cannot be opened, or its pixel size is unknown."""

    @property
    def to_do(self) -> tuple[PlannedStage, ...]:
        """Stages that will be carried out."""
        return tuple(stage for stage in self.stages if stage.state in ("missing", "redo", "unknown"))


@dataclass(frozen=True)
class RunPlan:
    """What a run will do. Frozen; `str(plan)` is the text of the dry run.

    Examples
    --------
    >>> import tempfile, wsikit
    >>> folder = tempfile.mkdtemp()
    >>> _ = wsikit.make_phantom(f"{folder}/slide.tiff", size_px=(700, 700))
    >>> plan = wsikit.plan_run(f"{folder}/slide.tiff", f"{folder}/out")
    >>> [stage.name for stage in plan.slides[0].to_do][:3]
    ['pixels', 'tissue', 'patches']
    """

    out: Path
    parameters: Mapping[str, Any]
    """All settings, as JSON values."""
    model: ModelInfo
    captioner: Mapping[str, Any]
    """Identity of the captioner, as far as known without loading it."""
    slides: tuple[PlannedSlide, ...]
    changes: tuple[str, ...] = ()
    """Settings that differ from those of the previous run in the same folder, one line each."""
    free_bytes: int | None = None
    """Free space on the drive of `out`."""
    rates: Mapping[str, float] = field(default_factory=dict)
    """Patches per second of each stage, as used for the estimates."""
    notes: tuple[str, ...] = ()
    """Remarks on the input: what was passed over, and columns of a manifest that are not used."""
    features: tuple[str, ...] = ()
    """Encoders whose features are computed."""
    engine: str = "auto"
    """How they run; see `wsikit.encoders.engine_choice.choose_engine`."""

    def to_json(self) -> dict[str, Any]:
        """The content of run.json."""
        return {
            "configuration": dict(self.parameters),
            "slides": [_entry_json(slide.entry) for slide in self.slides],
            "model_fingerprint": self.model.fingerprint,
            "model": {"name": self.model.name, "version": self.model.version, "architecture": self.model.architecture},
            "captioner": dict(self.captioner),
            "notes": list(self.notes),
            "versions": versions(),
        }

    def __str__(self) -> str:
        from wsikit.batch.plan_text import plan_text

        return plan_text(self)


def requests_of(
    entries: Sequence[SlideEntry],
    parameters: Mapping[str, Any],
    model: ModelInfo,
    captioner: Mapping[str, Any],
) -> dict[str, str | None]:
    """Digest of each slide's request (`slide_request`) by slide id; None if the slide cannot be opened as
    requested."""
    found: dict[str, str | None] = {}
    for entry in entries:
        if entry.fault:
            found[entry.slide_id] = None
            continue
        try:
            found[entry.slide_id] = slide_request(entry, dict(parameters), model.fingerprint, dict(captioner))
        except (OSError, WsikitError):
            found[entry.slide_id] = None
    return found


def plan_slide(work: SlideWork, rates: Mapping[str, float]) -> PlannedSlide:
    """The plan of one slide that is not finished: the state of each stage by its receipts. Changes nothing on disk."""
    from wsikit.batch.stages import stages_of

    stages: list[PlannedStage] = []
    will_change: dict[str, State] = {}  # outputs of the stages that will, or may, run
    for stage in stages_of(work.shared):
        planned = _plan_stage(stage, work, will_change)
        stages.append(planned)
        if planned.state in ("missing", "redo", "unknown") and not planned.repair:
            will_change.update(dict.fromkeys(stage.gives, planned.state))
    n_patches, exact = _count_patches(work, stages)
    slide = PlannedSlide(
        work.entry, tuple(stages), n_patches=n_patches, patches_exact=exact, source_bytes=_size(work.entry.path)
    )
    return replace(slide, seconds=_estimate(slide, rates))


def _plan_stage(stage: Stage, work: SlideWork, will_change: Mapping[str, State]) -> PlannedStage:
    planned = PlannedStage(stage.name, stage.needs, stage.gives, stage.where(work.shared), "done")
    changing = [name for name in stage.needs if will_change.get(name) in ("missing", "redo")]
    uncertain = [name for name in stage.needs if will_change.get(name) == "unknown"]
    try:
        if changing or uncertain:
            if not stage.anything_stored(work):
                return replace(planned, state="missing")
            if changing:
                return replace(planned, state="redo", reason=f"made from {', '.join(changing)}, which will change")
            return replace(planned, state="unknown", reason=f"made from {', '.join(uncertain)}")
        why = stage.skipped(work)
        if why is not None:
            return replace(planned, state="skipped", reason=why)
        if stage.name == "captions" and planned.where == "device":
            if not stage.anything_stored(work):
                return replace(planned, state="missing")
            return replace(planned, state="unknown", reason="the captioner has to be loaded to compare")
        stored, wanted = stage.stored(work), stage.receipt(work)
    except StoreError:
        return replace(planned, state="missing")  # there is no store, or no table, yet
    if stored is None:
        return replace(planned, state="missing")
    if stored.digest != wanted.digest:
        return replace(planned, state="redo", reason=difference(stored, wanted))
    lost = stage.lost(work)
    return planned if lost is None else replace(planned, state="missing", reason=lost, repair=True)


def difference(stored: Receipt, wanted: Receipt) -> str:
    """Why a stored result is made again: the differences between its receipt and the receipt it would have now."""
    if stored.revision != wanted.revision:
        return f"made by an earlier version of this stage (revision {stored.revision}, now {wanted.revision})"
    parts = [
        f"{name} was {_short(old)}, now {_short(new)}"
        for name, old, new in changed(stored.parameters, wanted.parameters)
    ]
    for name, old, new in changed(stored.inputs, wanted.inputs):
        parts.append(f"{name} {'added' if old is None else 'removed' if new is None else 'changed'}")
    return "; ".join(parts) or "its receipt differs"


def changed(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any, Any]]:
    """Names whose values differ, with both values; nested mappings by dotted names."""
    found: list[tuple[str, Any, Any]] = []
    for name in dict.fromkeys((*old, *new)):
        a, b = old.get(name), new.get(name)
        if a == b or _plain(a) == _plain(b):
            continue
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += changed(a, b, f"{prefix}{name}.")
        else:
            found.append((f"{prefix}{name}", a, b))
    return found


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str))


def _short(value: Any) -> str:
    text = "not set" if value is None else str(value)
    return text if len(text) <= 60 else text[:59] + "…"


def changes_since(out: Path, record: Mapping[str, Any]) -> tuple[str, ...]:
    """Differences between the previous run in `out` (run.json) and `record`, one line per setting."""
    try:
        before = json.loads((out / RUN_FILE).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return ()
    if not isinstance(before, dict):
        return ()
    lines = [
        f"{name}: {_short(old)} → {_short(new)}"
        for name, old, new in changed(_with_new_names(before.get("configuration", {})), record["configuration"])
    ]
    if before.get("model_fingerprint") != record["model_fingerprint"]:
        lines.append(f"model files: {_short(before.get('model_fingerprint'))} → {_short(record['model_fingerprint'])}")
    return tuple(lines)


def _with_new_names(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a run of before store format 3, with the names of now."""
    return {
        PARAMETERS.get(name, name): _with_new_names(value) if isinstance(value, Mapping) else value
        for name, value in settings.items()
    }


def measured_rates(out: Path) -> dict[str, float]:
    """Patches per second of each stage in earlier runs in `out`; rough defaults if there are none."""
    from wsikit.batch.log import read_log

    patches: dict[str, float] = {}
    seconds: dict[str, float] = {}
    for event in read_log(out):
        if event.get("event") != "end" or event.get("unit") != "patches" or not event.get("done"):
            continue
        names = str(event["stage"]).split(" and ")  # stages in one pass over the patches share its time equally
        for name in names:
            patches[name] = patches.get(name, 0.0) + event["done"]
            seconds[name] = seconds.get(name, 0.0) + max(event["seconds"], 1e-3) / len(names)
    return PATCHES_PER_S | {name: patches[name] / seconds[name] for name in patches}


def free_bytes(out: Path) -> int | None:
    """Free space, bytes, on the drive of `out`, which need not exist yet; None if unknown."""
    folder = out.absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def _count_patches(work: SlideWork, stages: Sequence[PlannedStage]) -> tuple[int | None, bool]:
    """Number of patches, and whether it is exact: from the patch table, else all positions of the grid, an upper
    bound."""
    if next(stage for stage in stages if stage.name == "patches").state == "done":
        return len(work.table), True
    grid = work.patches.grid(work.slide)
    return len(grid.all_coords()), False


def _estimate(slide: PlannedSlide, rates: Mapping[str, float]) -> float:
    seconds = 1.0
    for stage in slide.to_do:
        if stage.name == "pixels" and slide.source_bytes:
            seconds += slide.source_bytes / BYTES_PER_S
        rate = rates.get(stage.name)
        if rate and slide.n_patches:
            seconds += slide.n_patches / rate
    return seconds


def _size(path: str) -> int | None:
    from wsikit.store.paths import is_url

    if is_url(path):
        return None
    found = Path(path)
    try:
        if found.is_dir():
            return sum(file.stat().st_size for file in found.rglob("*") if file.is_file())
        return found.stat().st_size
    except OSError:
        return None


def _entry_json(entry: SlideEntry) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(entry)


__all__ = ["PlannedSlide", "PlannedStage", "RunPlan", "finished_row"]
