"""`run`: many slides, each from file to subtype, map and report. Every slide is attempted; what is there is kept.

One slide is a function of an entry and the parameters to one row; the loop knows of success, reason and resume only.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from wsikit.batch import records
from wsikit.batch.index import write_index
from wsikit.batch.manifest import SlideEntry
from wsikit.batch.records import SlideRow
from wsikit.captions import Captioner, CaptionerOptions, load_captioner
from wsikit.captions.base import in_parallel
from wsikit.captions.cache import cached
from wsikit.captions.registry import captioner_for
from wsikit.errors import RequestError, WsikitError
from wsikit.executor import Executor
from wsikit.geometry import MAX_ENLARGEMENT, SCALE_TOLERANCE
from wsikit.inference.budget import Budget
from wsikit.inference.caption_columns import drop_stale
from wsikit.inference.stages import VoteParameters, caption, caption_stage, predict, vote, why_not_applicable
from wsikit.progress import SILENT, Progress
from wsikit.results.outputs import SlideSummary, write_outputs
from wsikit.slides.base import Slide
from wsikit.slides.store import SlideStore
from wsikit.store.atomic import atomic_write
from wsikit.store.paths import local_folder
from wsikit.store.table import PatchTable
from wsikit.tiling.patches import PatchParameters, quality_stage
from wsikit.tiling.plan import ImageParameters
from wsikit.tiling.roi import Roi, read_roi
from wsikit.tiling.tile import tile_slide
from wsikit.tissue.parameters import TissueParameters

if TYPE_CHECKING:
    from wsikit.inference.predict import Predictor

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunParameters:
    """Everything that decides what a run computes. Patch size and scale are the model's."""

    model: str = "phantom-mmlnb"
    captioner: str | None = None
    """As `wsikit.captions.load_captioner` takes it; None: the one on whose words the model was trained, where it comes
    with the package, else morphometry."""
    captioner_options: CaptionerOptions = field(default_factory=CaptionerOptions)
    caption_budget: Budget | None = None
    """Per slide; None: every patch is described."""
    overlap_px: int = 0
    min_tissue: float = PatchParameters.min_tissue
    tissue: TissueParameters = field(default_factory=TissueParameters)
    image: ImageParameters = field(default_factory=ImageParameters)
    vote: VoteParameters = field(default_factory=VoteParameters)
    roi_classes: tuple[str, ...] = ()
    """Of the regions that slides come with (`SlideEntry.roi`), the classes that count; none: all."""
    min_roi: float = Roi.min_share
    """Least share of a patch that lies inside of them."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class RunSummary:
    """How a batch ended."""

    rows: tuple[SlideRow, ...]

    @property
    def failed(self) -> tuple[SlideRow, ...]:
        return tuple(row for row in self.rows if row.status == records.FAILED)

    @property
    def exit_status(self) -> int:
        """0: every slide is done; 1: some are not."""
        return 0 if all(row.status == records.DONE for row in self.rows) else 1


def run(
    entries: Sequence[SlideEntry],
    out: str | Path,
    *,
    parameters: RunParameters | None = None,
    executor: Executor | None = None,
    device: str = "auto",
    progress: Progress = SILENT,
    on_slide: Callable[[SlideRow], None] | None = None,
    on_start: Callable[[SlideEntry], None] | None = None,
) -> RunSummary:
    """Run the main job on `entries` into the folder `out`.

    Run again, it does only what is missing: failed slides are tried again, finished ones are checked and kept.

    Parameters
    ----------
    entries
        The slides; see `wsikit.batch.manifest.collect`.
    out
        Folder for slides/, results/, failures/, index.html, slides.csv and run.json. Other files in it are left alone.
    on_slide, on_start
        Told of each slide's end (its row) and beginning.

    Raises
    ------
    ModelError, RequestError, UnreachableError
        Before any slide is touched: model or captioner is not there, or `entries` is empty.
    """
    if not entries:
        raise RequestError("no slide to run")
    folder = local_folder(out)
    from wsikit.inference.predict import Predictor
    from wsikit.models.io import load_model

    parameters = parameters or RunParameters()
    predictor = Predictor(load_model(parameters.model), device=device)  # type: ignore[arg-type]
    spec = parameters.captioner or captioner_for(predictor.model.config.captioner)
    parameters = replace(parameters, captioner=spec)
    # equal pixels are described once in the whole run
    captioner = cached(load_captioner(spec, parameters.captioner_options, device=device))
    folder.mkdir(parents=True, exist_ok=True)
    records.write_run(folder, parameters.to_json(), entries, model_fingerprint=predictor.model.fingerprint)
    job = _Job(folder, parameters, executor or Executor(), predictor, captioner, progress)
    rows: list[SlideRow] = []
    for entry in entries:
        if on_start:
            on_start(entry)
        row = _attempt(entry, job)
        rows.append(row)
        records.write_table(folder)
        write_index(folder)
        if on_slide:
            on_slide(row)
    return RunSummary(tuple(rows))


@dataclass(frozen=True)
class _Job:
    """What all slides of a batch share."""

    out: Path
    parameters: RunParameters
    executor: Executor
    predictor: Predictor
    captioner: Captioner
    progress: Progress

    @property
    def beside(self) -> bool:
        """Whether captions are measured in the same pass as quality; else they are a stage of their own."""
        return in_parallel(self.captioner) and self.parameters.caption_budget is None


def _attempt(entry: SlideEntry, job: _Job) -> SlideRow:
    """One slide, whatever happens to it: its row, written beside its results."""
    lock_path = job.out / "slides" / f".{entry.slide_id}.lock"
    lock_path.parent.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    row = SlideRow(entry.slide_id, entry.path, records.FAILED)
    # the operating system drops the lock with the process that holds it: none is ever stale
    lock = FileLock(lock_path, blocking=False)
    try:
        with lock:
            try:
                row = _run_slide(entry, job)
                records.clear_failure(job.out, entry.slide_id)
            except WsikitError as error:
                row = replace(row, error=str(error))
                _keep_traceback(job.out, entry)
            except Exception as error:  # any slide may fail in its own way; the batch goes on and says how
                row = replace(row, error=f"{entry.path}: unexpected {type(error).__name__}: {error}")
                _keep_traceback(job.out, entry)
            row = replace(row, seconds=round(time.monotonic() - started, 1))
            records.write_row(job.out, row)
    except Timeout:
        return replace(row, status=records.ELSEWHERE, error="another run is working on this slide")
    return row


def _keep_traceback(out: Path, entry: SlideEntry) -> None:
    logger.debug("%s failed", entry.path, exc_info=True)
    with atomic_write(records.failure_path(out, entry.slide_id)) as partial:
        partial.write_text(f"{entry.path}\n\n{traceback.format_exc()}", encoding="utf-8")


def _run_slide(entry: SlideEntry, job: _Job) -> SlideRow:
    config = job.predictor.model.config
    with entry.open() as slide:
        patches, too_coarse = _patches_for(slide, config.mpp, config.patch_px, job.parameters)
        if entry.roi is not None:
            roi = read_roi(entry.roi, classes=job.parameters.roi_classes, min_share=job.parameters.min_roi)
            patches = replace(patches, roi=roi)
        store = tile_slide(
            slide,
            job.out / "slides" / f"{entry.slide_id}.zarr",
            slide_id=entry.slide_id,
            patches=patches,
            tissue=job.parameters.tissue,
            image=job.parameters.image,
            stages=(quality_stage, partial(caption_stage, captioner=job.captioner)) if job.beside else (quality_stage,),
            executor=job.executor,
            progress=job.progress,
        )
    with store:
        table = store.patches(patches.grid(store).name)
        fault = too_coarse or why_not_applicable(config, store, table)
        if job.beside:
            drop_stale(table)
        else:
            _caption_apart(store, table, job, applies=fault is None)
        if fault is None:
            predict(store, model=job.predictor, grid=table.name, progress=job.progress)
            vote(store, parameters=job.parameters.vote, grid=table.name)
        job.progress.start("map and report", 1, "slide")
        folder = job.out / "results" / entry.slide_id
        summary = write_outputs(store, table, folder, method=job.parameters.vote.method, not_predicted=fault)
        job.progress.finish()
    return _row(entry, store, table, summary)


def _caption_apart(store: SlideStore, table: PatchTable, job: _Job, *, applies: bool) -> None:
    """Captions that are generated, or bound by a budget. A model that does not apply has no say in the choice."""
    caption(
        store,
        captioner=job.captioner,
        budget=job.parameters.caption_budget,
        model=job.predictor if applies else None,
        grid=table.name,
        progress=job.progress,
    )


def _patches_for(
    slide: Slide, mpp: float, patch_px: int, parameters: RunParameters
) -> tuple[PatchParameters, str | None]:
    """The patches a model wants; where the slide is too coarse for it, patches at the slide's own scale, and why."""
    finest = float(f"{max(slide.mpp):.6g}")  # 16.783, not 16.782999999999998
    too_coarse = finest > mpp * MAX_ENLARGEMENT * (1 + SCALE_TOLERANCE)
    wanted = PatchParameters(finest if too_coarse else mpp, patch_px, parameters.overlap_px, parameters.min_tissue)
    if not too_coarse:
        return wanted, None
    return wanted, f"scanned at {finest:.4g} µm/px, the model reads {mpp:g} µm/px: too coarse to see what it looks for"


def _row(entry: SlideEntry, store: SlideStore, table: PatchTable, summary: SlideSummary) -> SlideRow:
    tissue = store.tissue_record()
    return SlideRow(
        slide_id=entry.slide_id,
        path=entry.path,
        status=records.DONE,
        subtype=summary.subtype,
        probability=summary.probability,
        margin=summary.margin,
        abstained=summary.abstained,
        reason=summary.reason,
        n_patches=len(table),
        tissue_mm2=round(tissue["area_mm2"], 4),
        unreadable_fraction=summary.unreadable_fraction,
        mpp_x=float(f"{store.mpp[0]:.6g}"),
        mpp_y=float(f"{store.mpp[1]:.6g}"),
        mpp_source=store.mpp_source,
    )
