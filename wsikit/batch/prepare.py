"""A request to run: checked, with its slides found, before any slide is opened or model loaded."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsikit.batch import claims, records
from wsikit.batch.finished import finished_row
from wsikit.batch.manifest import Collected, Manifest, SlideEntry, find_slides
from wsikit.batch.parameters import DEFAULT_MIN_ROI, DEFAULT_MIN_TISSUE, RunParameters
from wsikit.batch.plan import (
    PlannedSlide,
    RunPlan,
    changes_since,
    free_bytes,
    plan_slide,
    requests_of,
)
from wsikit.batch.records import SlideRow
from wsikit.batch.rois import with_rois
from wsikit.errors import ModelError, RequestError, WsikitError
from wsikit.executor import Executor
from wsikit.store.paths import local_folder
from wsikit.tables import is_table
from wsikit.voting.parameters import VoteParameters, parameters_for

if TYPE_CHECKING:
    from wsikit.batch.slide_work import Shared
    from wsikit.captions.base import Captioner
    from wsikit.captions.registry import CaptionerOptions
    from wsikit.encoders.lazy import LazyEncoder
    from wsikit.encoders.protocol import PatchEncoder
    from wsikit.inference.budget import Budget
    from wsikit.models.lazy import LazyModel, ModelLike
    from wsikit.models.protocol import ModelInfo
    from wsikit.tiling.plan import ImageParameters
    from wsikit.tiling.roi import FrameChoice
    from wsikit.tissue.parameters import TissueParameters


@dataclass(frozen=True)
class PreparedRun:
    """A request that has been checked as far as possible without opening slides."""

    out: Path
    entries: tuple[SlideEntry, ...]
    parameters: RunParameters
    model: LazyModel
    captioner: str | Captioner
    record: dict[str, Any]
    """All settings, as JSON values."""
    identity: dict[str, Any]
    """Identity of the captioner, as far as known without loading it."""
    requests: dict[str, str | None]
    executor: Executor
    device: str
    notes: tuple[str, ...] = ()
    """Remarks on the input."""
    encoders: tuple[LazyEncoder, ...] = ()
    engine: str = "auto"
    """How the encoders run; it does not change their features."""

    def finished(self) -> dict[str, SlideRow]:
        """Rows of the slides that are finished for this request, by slide id."""
        found: dict[str, SlideRow] = {}
        for entry in self.entries:
            request = self.requests[entry.slide_id]
            row = None if request is None else finished_row(self.out, entry, request)
            if row is not None:
                found[entry.slide_id] = row
        return found

    def shared(self) -> Shared:
        """What all slides share. Imports the libraries of the stages."""
        from wsikit.batch.slide_work import LazyCaptioner, Shared

        captioner = LazyCaptioner.of(self.captioner, self.parameters.captioner_options, device=self.device)
        return Shared(self.out, self.parameters, self.model, captioner, self.executor, self.encoders, self.engine)

    def plan(self, slides: Sequence[PlannedSlide]) -> RunPlan:
        """The plan with these slides."""
        plan = RunPlan(
            self.out,
            self.record,
            self.model.info,
            self.identity,
            tuple(slides),
            notes=self.notes,
            features=tuple(encoder.info.name for encoder in self.encoders),
            engine=self.engine,
        )
        return replace(plan, changes=changes_since(self.out, plan.to_json()), free_bytes=free_bytes(self.out))

    def plan_entry(self, entry: SlideEntry, rates: dict[str, float]) -> PlannedSlide:
        """The plan of one slide that is not finished."""
        from wsikit.batch.slide_work import SlideWork

        if not claims.belongs(self.out, entry.slide_id, entry.path):
            return PlannedSlide(entry, fault=claims.conflict(self.out, entry))
        try:
            work = SlideWork(entry, entry.open(), self.shared())
        except (WsikitError, OSError) as error:
            return PlannedSlide(entry, fault=str(error))
        try:
            return plan_slide(work, rates)
        except (WsikitError, OSError) as error:
            return PlannedSlide(entry, fault=str(error))
        finally:
            work.close()

    def patients(self) -> dict[str, str]:
        """Patient id by slide id, from the manifests of this and earlier runs."""
        return records.read_patients(self.out) | {
            entry.slide_id: entry.patient for entry in self.entries if entry.patient
        }


def prepare(
    slides: Any,
    out: str | os.PathLike[str],
    *,
    executor: Executor,
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
    device: str = "auto",
    taken: Mapping[str, str] | None = None,
) -> PreparedRun:
    """Check a request and find its slides; nothing is written and no model is loaded.

    `taken`: ids in use in `out`, with their paths; by default as the rows there say.
    """
    from wsikit.captions.registry import captioner_for, captioner_identity
    from wsikit.models.lazy import LazyModel

    folder = local_folder(out)
    taken = records.taken_ids(folder) if taken is None else taken
    collected = _entries(slides, folder, taken, mpp=mpp, scene=scene)
    entries = list(collected.entries)
    entries = with_rois(entries, roi) if roi is not None else entries
    if not 0 <= min_tissue <= 1:
        raise RequestError(f"min_tissue {min_tissue}: expected a fraction between 0 and 1")
    lazy = LazyModel.of(model, device=device).with_concepts(concepts or {})
    if without:
        from wsikit.inference.left_out import check_without

        check_without(without)
    chosen = captioner if captioner is not None else captioner_for(lazy.info.captioner)
    if isinstance(caption_budget, int):
        from wsikit.inference.budget import Budget

        caption_budget = Budget(caption_budget)
    if caption_budget is not None and captioner_options is not None:
        from wsikit.inference.caption_fields import check_budget

        check_budget(caption_budget, captioner_options.caption_field)
    if features_dtype not in ("float16", "float32"):
        raise RequestError(f"features_dtype {features_dtype!r}: features are stored as float16 or float32")
    encoders = _encoders(features, lazy.info, device, download=download)
    if encoders:
        from wsikit.encoders.engine_request import check_engine

        check_engine(features_engine, features_precision, device=device)
    elif (features_engine, features_precision) != ("auto", "auto"):
        raise RequestError("engine and precision are those of an encoder of features: add --features NAME")
    voting = vote if isinstance(vote, VoteParameters) else parameters_for(vote, lazy.info.vote)
    if voting.method == "attention" and "attention" not in {column.name for column in lazy.info.columns}:
        raise RequestError(
            f"model {lazy.info.name}: gives no attention to vote by. Take a model on labels of slides, or another "
            "method of voting."
        )
    parameters = RunParameters(
        model=lazy.info.name if model is None or not isinstance(model, str | os.PathLike) else os.fspath(model),
        captioner=chosen if isinstance(chosen, str) else chosen.name,
        captioner_options=captioner_options,
        caption_budget=caption_budget,
        overlap_px=overlap_px,
        min_tissue=min_tissue,
        tissue=tissue,
        image=image,
        stain=stain,
        concepts=lazy.info.concepts_set,
        without=tuple((without or {}).items()),
        vote=voting,
        roi_classes=tuple(roi_classes),
        min_roi=min_roi,
        roi_frame=roi_frame,
        features=tuple(encoder.info.name for encoder in encoders),
        features_dtype=features_dtype,
        features_precision=features_precision,
    )
    record = parameters.to_json()
    if encoders:
        record["features"] = {encoder.info.name: encoder.info.fingerprint for encoder in encoders}
    if stain is not None:
        from wsikit.inference.stain import parse_stain

        record["stain"] = {"spec": stain, **parse_stain(stain).fingerprint()}
    identity = captioner_identity(chosen, captioner_options)
    requests = requests_of(entries, record, lazy.info, identity)
    return PreparedRun(
        folder,
        tuple(entries),
        parameters,
        lazy,
        chosen,
        record,
        identity,
        requests,
        executor,
        device,
        collected.notes,
        encoders,
        features_engine,
    )


def _encoders(
    features: str | PatchEncoder | Sequence[str | PatchEncoder], model: ModelInfo, device: str, *, download: bool
) -> tuple[LazyEncoder, ...]:
    """The encoders that are asked for, then those that the model reads and that are known by their names."""
    given: Sequence[Any] = features if isinstance(features, list | tuple) else [features]
    if not given and not model.feature_columns:
        return ()
    from wsikit.encoders.lazy import LazyEncoder
    from wsikit.encoders.protocol import COLUMN_PREFIX

    try:
        found = {
            one.info.name: one
            for one in (LazyEncoder.of(encoder, device=device, download=download) for encoder in given)
        }
    except ModelError as error:
        raise RequestError(f"features: {error}") from error
    if len(found) < len(given):
        raise RequestError(f"features: of {len(given)} encoders, two have the same name; there are {', '.join(found)}.")
    for column in model.feature_columns:
        name = column.removeprefix(COLUMN_PREFIX)
        if name in found:
            continue
        try:
            found[name] = LazyEncoder.of(name, device=device, download=download)
        except WsikitError:
            continue  # not known by this name, or not here: the features have to be imported
    return tuple(found.values())


def _entries(
    slides: Any, out: Path, taken: Mapping[str, str], *, mpp: float | None, scene: int | str | None
) -> Collected:
    """The slides of a request, each once, with ids that do not collide with those in use in `out`."""
    one = isinstance(slides, str | os.PathLike | SlideEntry | Manifest) or _is_slide(slides)
    given = [slides] if one else list(slides)
    paths: list[str | os.PathLike[str]] = []
    manifests: list[str | os.PathLike[str]] = []
    ready: list[SlideEntry] = []
    for item in given:
        if isinstance(item, SlideEntry):
            ready.append(item)
        elif isinstance(item, Manifest):
            manifests.append(item.path)
        elif isinstance(item, str | os.PathLike):
            (manifests if is_table(item) else paths).append(item)
        elif _is_slide(item):
            ready.append(SlideEntry.of(item))
        else:
            raise RequestError(
                f"slides: {type(item).__name__} given; expected paths, folders, a manifest (.csv), open slides or "
                "entries"
            )
    if not given:
        raise RequestError("no slides given: give slides, folders or a manifest (.csv)")
    return find_slides(paths, manifests=manifests, entries=ready, assume_mpp=mpp, scene=scene, taken=taken, out=out)


def _is_slide(item: Any) -> bool:
    """Whether it is an open slide; tested without importing `Slide`."""
    return hasattr(item, "read_region") and hasattr(item, "path")
