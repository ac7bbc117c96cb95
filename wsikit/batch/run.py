"""`wsikit.run` and `wsikit.plan_run`: from slides to subtypes, maps and reports. Every slide is attempted.

Importing this module is light: the libraries of the stages are imported only if a slide is not finished.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from wsikit.batch.carry_out import Wanted, carry_out_run, failed_before, nothing_failed
from wsikit.batch.manifest import SlideEntry
from wsikit.batch.parameters import DEFAULT_MIN_ROI, DEFAULT_MIN_TISSUE
from wsikit.batch.plan import PlannedSlide, RunPlan, measured_rates
from wsikit.batch.prepare import prepare
from wsikit.batch.records import SlideRow
from wsikit.batch.run_result import RunResult
from wsikit.errors import RequestError
from wsikit.executor import Executor
from wsikit.progress import SILENT, Progress
from wsikit.voting.parameters import VoteParameters

if TYPE_CHECKING:
    from wsikit.captions.base import Captioner
    from wsikit.captions.registry import CaptionerOptions
    from wsikit.encoders.protocol import PatchEncoder
    from wsikit.inference.budget import Budget
    from wsikit.models.lazy import ModelLike
    from wsikit.slides.base import Slide
    from wsikit.tiling.plan import ImageParameters
    from wsikit.tiling.roi import FrameChoice
    from wsikit.tissue.parameters import TissueParameters


def run(
    slides: str | os.PathLike[str] | Slide | SlideEntry | Sequence[str | os.PathLike[str] | Slide | SlideEntry],
    out: str | os.PathLike[str],
    *,
    model: ModelLike | None = None,
    mpp: float | None = None,
    scene: int | str | None = None,
    captioner: str | Captioner | None = None,
    captioner_options: CaptionerOptions | None = None,
    caption_budget: int | Budget | None = None,
    concepts: Mapping[str, str] | None = None,
    without: Mapping[str, float] | None = None,
    vote: str | VoteParameters | None = None,
    roi: str | os.PathLike[str] | None = None,
    roi_classes: Sequence[str] = (),
    min_roi: float = DEFAULT_MIN_ROI,
    roi_frame: FrameChoice = "auto",
    min_tissue: float = DEFAULT_MIN_TISSUE,
    overlap_px: int = 0,
    stain: str | None = None,
    tissue: TissueParameters | None = None,
    image: ImageParameters | None = None,
    features: str | PatchEncoder | Sequence[str | PatchEncoder] = (),
    features_dtype: str = "float16",
    features_engine: str = "auto",
    features_precision: str = "auto",
    download: bool = False,
    workers: int | None = None,
    scheduler: str = "threads",
    gpus: int = 0,
    device: str = "auto",
    progress: Progress = SILENT,
    on_slide: Callable[[SlideRow], None] | None = None,
    on_start: Callable[[SlideEntry], None] | None = None,
    on_note: Callable[[str], None] | None = None,
    on_event: Callable[[Mapping[str, Any]], None] | None = None,
    only_failed: bool = False,
    fail_fast: bool = False,
) -> RunResult:
    """Run the whole pipeline: a subtype, a map, captions and a report for each slide.

    Every slide is attempted; a damaged slide fails alone. A second run into the same folder does only what is missing
    or what was requested differently. Slides overlap: while the model works on one, the next is tiled and described.
    docs/run.md describes all of it.

    Parameters
    ----------
    slides
        One slide or many: paths, folders (searched recursively), a manifest (a path ending in .csv or .tsv, or a
        `wsikit.batch.manifest.Manifest`), open slides, or entries.
    out
        Folder for slides/, results/, failures/, index.html, slides.csv, log.jsonl and run.json. Other files in it are
        kept.
    model
        A model (`PatchModel`), the name of a packaged model or plug-in, or a model's folder; by default the packaged
        demonstration model. It determines the size and scale of the patches.
    mpp
        Pixel size, µm per level-0 px, of slides without a credible pixel size in the manifest, the sidecar or the file.
    scene
        Which of several main images of a file is read: its number from 0, or its name; by default the largest. A
        manifest's column `scene` takes precedence.
    captioner
        A captioner, or what `wsikit.captions.load_captioner` takes; by default the one that the model was trained with.
    captioner_options, caption_budget
        Settings of a generative captioner; maximum number of captions per slide, shared by similar patches.
    concepts
        Of a model with concepts: the option of each axis that is taken for given in every patch, as for
        `wsikit.predict`.
    without
        Limits by fact: patches above one get no prediction, as for `wsikit.predict`. Maps of words that it names are
        made if they are missing, by the packaged encoder or one of `features`.
    vote
        Method by which patches are aggregated, or all parameters of the vote; by default what the model is made for,
        usually the mean.
    roi
        GeoJSON file, or folder of <slide>.geojson: only patches inside these regions are analysed.
    roi_classes, min_roi
        Classes of the regions that are used (empty: all), and the minimum fraction of a patch inside them, 0–1.
    roi_frame
        What their coordinates count from: "auto", "level0" or "bounds", as in `wsikit.tile`.
    min_tissue
        Minimum tissue fraction of a patch, 0–1.
    overlap_px
        Overlap of neighbouring patches, px at the model's mpp.
    stain
        Stain normalisation before the model: "macenko", "macenko:REFERENCE", "reinhard:REFERENCE".
    tissue, image
        Parameters of the tissue mask (µm, mm²), and of the stored pixels.
    features, features_dtype
        Encoders (names or `PatchEncoder`) whose features of the model's patches are stored, as "float16" or "float32";
        see `wsikit.features`. Features that the model itself reads are computed in any case if their encoder is known.
    features_engine, features_precision, download
        How the encoders run, in which numbers, and whether weights that are not here are fetched: `engine`, `precision`
        and `download` of `wsikit.features`.
    workers, scheduler
        Number of threads or processes; "threads" (of this process), "processes", or the address of a running Dask
        cluster. Processes and clusters carry out several whole slides at the same time (docs/cluster.md).
    gpus
        How many of the processes hold one GPU each; work on a device goes to these.
    device
        "auto", "cpu" or "cuda".
    progress
        Called at each step.
    on_slide, on_start
        Called with a slide's row at its end, and with its entry at its start.
    on_note
        Called with each remark on the input before the first slide, which are in `RunResult.notes` too, and on the run
        itself: that it waits for another run, or that an earlier process died in a slide.
    on_event
        Called with each event of OUT/log.jsonl, one call at a time.
    only_failed
        Only the slides that failed in earlier runs in `out`, or in which a process died, are run again.
    fail_fast
        The first slide that fails stops the run; slides that were not tried have no row in the result.

    Returns
    -------
    RunResult
        One row per slide, in the order in which they were given.

    Raises
    ------
    RequestError, ModelError, UnreachableError
        Before any slide is processed: no slide is found, the model or captioner does not exist, or the settings
        contradict each other.

    Examples
    --------
    >>> import tempfile, wsikit
    >>> folder = tempfile.mkdtemp()
    >>> _ = wsikit.make_phantom(f"{folder}/slide.tiff", size_px=(900, 900))
    >>> result = wsikit.run(f"{folder}/slide.tiff", f"{folder}/out")
    >>> result[0].status, result[0].n_patches == len(result.store().patches())
    ('done', True)
    """
    settings: dict[str, Any] = {
        "model": model,
        "mpp": mpp,
        "scene": scene,
        "captioner": captioner,
        "captioner_options": captioner_options,
        "caption_budget": caption_budget,
        "concepts": concepts,
        "without": without,
        "vote": vote,
        "roi": roi,
        "roi_classes": roi_classes,
        "min_roi": min_roi,
        "roi_frame": roi_frame,
        "min_tissue": min_tissue,
        "overlap_px": overlap_px,
        "stain": stain,
        "tissue": tissue,
        "image": image,
        "features": features,
        "features_dtype": features_dtype,
        "features_engine": features_engine,
        "features_precision": features_precision,
        "download": download,
        "executor": Executor(scheduler, workers, gpus),
        "device": device,
    }
    prepared = prepare(slides, out, **settings)
    wanted = Wanted(progress, on_slide, on_start, on_note, on_event, fail_fast)
    finished, todo = prepared.finished(), list(prepared.entries)
    if only_failed:
        todo = failed_before(prepared.out, todo)
        if not todo:
            return nothing_failed(prepared, wanted)
    new = [entry for entry in todo if entry.slide_id not in finished]
    if not new:
        return carry_out_run(prepared, todo, finished, wanted)
    if scheduler != "threads":
        from wsikit.batch.cluster import carry_out_on_cluster

        on_cluster = partial(carry_out_on_cluster, executor=prepared.executor, settings=settings)
        return carry_out_run(prepared, todo, finished, wanted, on_cluster=on_cluster)
    from wsikit.batch.apart import pack_slide
    from wsikit.batch.workers import workers_of_run
    from wsikit.encoders.device import check_device

    check_device(device)

    def apart(entry: SlideEntry) -> bytes | None:
        return pack_slide(entry, request=prepared.requests[entry.slide_id], out=prepared.out, settings=settings)

    untiled = [] if caption_budget is not None else new
    with workers_of_run(untiled, prepared.out, prepared.captioner, prepared.executor):
        return carry_out_run(prepared, todo, finished, wanted, apart)


def plan_run(
    slides: str | os.PathLike[str] | Slide | SlideEntry | Sequence[str | os.PathLike[str] | Slide | SlideEntry],
    out: str | os.PathLike[str],
    **settings: Any,
) -> RunPlan:
    """The plan of `run` with the same arguments. Slides are opened; nothing is written and no model is loaded.

    Parameters
    ----------
    slides, out, settings
        As for `run`; progress, listeners, only_failed and fail_fast are ignored.

    Returns
    -------
    RunPlan
        `str(plan)` is the text of `wsikit run --dry-run`.

    Raises
    ------
    RequestError, ModelError
        As for `run`.

    Examples
    --------
    >>> import os, tempfile, wsikit
    >>> folder = tempfile.mkdtemp()
    >>> _ = wsikit.make_phantom(f"{folder}/slide.tiff", size_px=(900, 900))
    >>> plan = wsikit.plan_run(f"{folder}/slide.tiff", f"{folder}/out")
    >>> plan.slides[0].stages[0].state, os.path.exists(f"{folder}/out")
    ('missing', False)
    """
    for listener in ("progress", "on_slide", "on_start", "on_note", "on_event", "only_failed", "fail_fast"):
        settings.pop(listener, None)
    executor = Executor(settings.pop("scheduler", "threads"), settings.pop("workers", None), settings.pop("gpus", 0))
    download = settings.pop("download", False)
    try:
        prepared = prepare(slides, out, executor=executor, **settings)
    except RequestError as error:
        if not (download and "--download" in str(error)):
            raise
        raise RequestError(f"{error} A dry run fetches nothing: fetch them first, or run without --dry-run.") from error
    finished = prepared.finished()
    rates = measured_rates(prepared.out)
    planned = [
        PlannedSlide(entry, finished=True) if entry.slide_id in finished else prepared.plan_entry(entry, rates)
        for entry in prepared.entries
    ]
    return replace(prepared.plan(planned), rates=rates)
