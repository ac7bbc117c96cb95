"""The stages of a slide, from its file to its results.

A stage states its inputs (`needs`) and outputs (`gives`), where it runs, the receipt that its result would have now,
and the receipt of the stored result. If both are equal, there is nothing to do. The scheduler carries the stages out,
the plan prints them.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal

from wsikit.batch.slide_work import Shared, SlideWork
from wsikit.batch.workers import MEASURING_MODULES
from wsikit.encoders.concepts import CONCEPTS
from wsikit.encoders.lazy import LazyEncoder
from wsikit.errors import StoreError, WsikitError
from wsikit.geometry import check_enlargement
from wsikit.inference.applicability import why_not_captioned
from wsikit.inference.caption import caption_stage
from wsikit.inference.caption_columns import drop_stale
from wsikit.inference.fact_columns import map_column
from wsikit.inference.features import FeatureSettings, features_stage, imported, why_not_encoded
from wsikit.inference.predict import predict_stage
from wsikit.inference.vote import vote, vote_receipt
from wsikit.models.protocol import MAP_FACT, ImageFeatureExtractor
from wsikit.models.text_encoders import DEFAULT_TEXT_ENCODER, text_fingerprint
from wsikit.progress import Progress
from wsikit.results.load import StoredResults
from wsikit.slides.store import SlideStore
from wsikit.store.atomic import remove_partials
from wsikit.store.receipts import Receipt
from wsikit.store.table import coords_digest
from wsikit.tiling.columns import ColumnStage, fill_columns, seconds_of_python
from wsikit.tiling.image import damage_of, image_receipt, read_otherwise
from wsikit.tiling.patches import (
    is_complete_table,
    patches_receipt,
    quality_stage,
    source_tissue_receipt,
    tissue_receipt,
    write_patches,
    write_tissue,
)
from wsikit.tiling.tile import finest_kept, write_pixels

if TYPE_CHECKING:
    pass

Where = Literal["workers", "device", "driver"]


class Stage(ABC):
    """One stage of a slide."""

    name: str
    needs: tuple[str, ...]
    """Inputs: the source, "pixels", labels, columns."""
    gives: tuple[str, ...]
    """Outputs."""

    def where(self, shared: Shared) -> Where:
        """The resource it runs on: "workers", the executor; "device", where a model runs; "driver", this process."""
        return "workers"

    def skipped(self, work: SlideWork) -> str | None:
        """Why the stage does not apply to this slide; None if it applies."""
        return None

    @abstractmethod
    def receipt(self, work: SlideWork) -> Receipt:
        """Receipt of the result that it would give now. Requires that its inputs are complete and up to date."""

    @abstractmethod
    def stored(self, work: SlideWork) -> Receipt | None:
        """Receipt of the stored result; None if there is none, or it is incomplete."""

    def lost(self, work: SlideWork) -> str | None:
        """What was lost of a stored result that is up to date, or None. It is made again with the same content."""
        return None

    def anything_stored(self, work: SlideWork) -> bool:
        """Whether a complete result is stored, from any inputs. Loads no model."""
        return self.stored(work) is not None


class WorkStage(Stage):
    """A stage that does its work in one call."""

    @abstractmethod
    def run(self, work: SlideWork, progress: Progress) -> None:
        """Update the result."""


class TableStage(Stage):
    """A stage that computes columns of the patch table; consecutive ones on workers share one pass over the patches."""

    @abstractmethod
    def columns(self, work: SlideWork) -> ColumnStage:
        """The columns and how they are computed."""

    def anything_stored(self, work: SlideWork) -> bool:
        return self.gives[0] in work.table.columns()

    def receipt(self, work: SlideWork) -> Receipt:
        return self.columns(work).receipt

    def stored(self, work: SlideWork) -> Receipt | None:
        stage, table = self.columns(work), work.table
        known = table.receipt(stage.specs[0].name)
        if known is None:
            return None
        return known if all(table.is_current(spec.name, known) for spec in stage.specs) else None


class Pixels(WorkStage):
    """The slide's pixels in the store."""

    name, needs, gives = "pixels", ("source",), ("pixels",)

    def receipt(self, work: SlideWork) -> Receipt:
        source = work.source
        tissue = None
        if source.tissue_only(work.image):
            tissue = source_tissue_receipt(source.fingerprint, work.tissue)
        return image_receipt(source, work.image, tissue)

    def stored(self, work: SlideWork) -> Receipt | None:
        try:
            record = SlideStore.read_record(work.folder)
        except StoreError:
            return None
        stored = Receipt.from_json(record["receipt"])
        return replace(stored, parameters={**stored.parameters, **read_otherwise(record, work.slide)})

    def lost(self, work: SlideWork) -> str | None:
        try:
            return damage_of(work.store, work.slide)
        except StoreError as error:
            return str(error)

    def run(self, work: SlideWork, progress: Progress) -> None:
        finest = max(work.slide.mpp) * finest_kept(work.slide, work.image)
        check_enlargement(work.slide.path, finest, work.patches.mpp)
        slide_id, executor = work.entry.slide_id, work.executor
        work.store = write_pixels(work.slide, work.folder, slide_id, work.tissue, work.image, executor, progress)


class Tissue(WorkStage):
    """The tissue label."""

    name, needs, gives = "tissue", ("pixels",), ("labels/tissue",)

    def receipt(self, work: SlideWork) -> Receipt:
        return tissue_receipt(work.store, work.tissue)

    def stored(self, work: SlideWork) -> Receipt | None:
        try:
            return Receipt.from_json(work.store.tissue_record()["receipt"])
        except StoreError:
            return None

    def lost(self, work: SlideWork) -> str | None:
        try:
            work.store.tissue()
        except StoreError as error:
            return str(error)
        return None

    def run(self, work: SlideWork, progress: Progress) -> None:
        remove_partials(work.store.folder)
        progress.start("tissue", 1, "slide")
        write_tissue(work.store, work.tissue)
        progress.advance()
        progress.finish()


class Patches(WorkStage):
    """The patch table: coordinates, tissue fraction and, with regions of interest, the fraction inside them."""

    name, needs, gives = "patches", ("labels/tissue",), ("coords", "tissue")

    def receipt(self, work: SlideWork) -> Receipt:
        return patches_receipt(work.patches, tissue_receipt(work.store, work.tissue))

    def stored(self, work: SlideWork) -> Receipt | None:
        name = work.patches.grid(work.store).name
        if name not in work.store.grids():
            return None
        return work.store.patches(name).receipt("coords")

    def lost(self, work: SlideWork) -> str | None:
        return None if is_complete_table(work.table, work.patches) else "a file of the table is missing or cut off"

    def run(self, work: SlideWork, progress: Progress) -> None:
        progress.start("patches", 1, "slide")
        write_patches(work.store, work.patches, tissue_receipt(work.store, work.tissue))
        progress.advance()
        progress.finish()


class Quality(TableStage):
    """Readability and quality of each patch."""

    name, needs, gives = "quality", ("pixels", "coords"), ("readable", "blur", "pen")

    def columns(self, work: SlideWork) -> ColumnStage:
        return quality_stage(work.table)


class Captions(TableStage):
    """A caption of each patch, and its facts: on workers if they are measured, else on the device."""

    name, needs, gives = "captions", ("pixels", "coords"), ("caption", "caption_facts")

    def where(self, shared: Shared) -> Where:
        measured = shared.captioner.parallel and shared.parameters.caption_budget is None
        return "workers" if measured else "device"

    def skipped(self, work: SlideWork) -> str | None:
        return why_not_captioned(work.store)

    def columns(self, work: SlideWork) -> ColumnStage:
        shared = work.shared
        budget, model = shared.parameters.caption_budget, None
        # with a budget, similar patches share captions; a model that does not apply must not be used to compare them
        if budget is not None and budget.captions < len(work.table) and work.why_not_predicted() is None:
            loaded = shared.model.load()
            model = loaded if isinstance(loaded, ImageFeatureExtractor) else None
        return caption_stage(work.store, work.table, shared.captioner.load(), budget=budget, model=model)


class Features(TableStage):
    """What an encoder gives for each patch."""

    needs = ("pixels", "coords")

    def __init__(self, encoder: LazyEncoder) -> None:
        self.encoder = encoder
        self.name = f"features {encoder.info.name}"
        self.gives = (encoder.info.column,)

    def where(self, shared: Shared) -> Where:
        return "device"

    def skipped(self, work: SlideWork) -> str | None:
        if imported(work.table, self.encoder.info.column):
            return f"{self.encoder.info.column} was imported"
        return why_not_encoded(work.store)

    def columns(self, work: SlideWork) -> ColumnStage:
        wanted = work.shared.parameters
        settings = FeatureSettings(
            wanted.features_dtype, engine=work.shared.engine, precision=wanted.features_precision
        )
        return features_stage(work.table, self.encoder, settings)


class TextMaps(WorkStage):
    """Maps of words (`wsikit.localize` with its defaults) that the model reads, or that patches are left out by.

    A map that is there is kept whatever its settings, if it is by the encoder that the model states. One that no
    encoder of the run can make is left to the user: the predictions say which command is missing.
    """

    name = "maps of words"

    def __init__(self, facts: Sequence[str], features: Sequence[str] = ()) -> None:
        self.facts = tuple(facts)
        self.needs = ("pixels", "coords", *features)
        self.gives = tuple(map_column(fact) for fact in self.facts)

    def where(self, shared: Shared) -> Where:
        return "device"

    def skipped(self, work: SlideWork) -> str | None:
        return work.why_not_predicted()

    def receipt(self, work: SlideWork) -> Receipt:
        return Receipt("text maps", 1, {"maps": list(self.facts)}, {"patches": coords_digest(work.table)})

    def stored(self, work: SlideWork) -> Receipt | None:
        return None if self._missing(work) else self.receipt(work)

    def run(self, work: SlideWork, progress: Progress) -> None:
        from wsikit.inference.localize import localize  # with zarr and scipy; a finished slide does without

        for fact, encoder in self._missing(work).items():
            made_by: Any = None if encoder is None else encoder.load()  # it has texts: its description says so
            concept = fact.removeprefix(MAP_FACT)
            localize(work.store, concept, encoder=made_by, grid=work.table.name, progress=progress)

    def _missing(self, work: SlideWork) -> dict[str, LazyEncoder | None]:
        """The maps that are to be made, with the encoder that makes each; None: the packaged one."""
        table, stated = work.table, dict(work.shared.model.info.maps)
        known: dict[str, LazyEncoder | None] = {text_fingerprint(DEFAULT_TEXT_ENCODER): None}
        known |= {one.info.fingerprint: one for one in work.shared.encoders if one.info.shared_width is not None}
        found = {}
        for fact in self.facts:
            wanted = stated.get(fact)
            receipt = table.receipt(map_column(fact)) if map_column(fact) in table.columns() else None
            of_these = receipt is not None and receipt.inputs.get("patches") == coords_digest(table)
            if receipt is not None and of_these and wanted in (None, receipt.inputs.get("encoder")):
                continue
            maker = next(iter(known)) if wanted is None else wanted
            if maker in known and fact.removeprefix(MAP_FACT) in CONCEPTS:
                found[fact] = known[maker]
        return found


class Predictions(TableStage):
    """The columns of the model. `features`: columns of the table that are read next to pixels and captions."""

    name, gives = "predictions", ("probability",)

    def __init__(self, features: Sequence[str] = ()) -> None:
        self.needs = ("pixels", "caption", *features)

    def where(self, shared: Shared) -> Where:
        return "device"

    def skipped(self, work: SlideWork) -> str | None:
        return work.why_not_predicted()

    def columns(self, work: SlideWork) -> ColumnStage:
        return predict_stage(
            work.table,
            work.shared.model,
            stain=work.shared.parameters.stain,
            without=dict(work.shared.parameters.without),
        )


class Vote(WorkStage):
    """The slide-level result."""

    name, needs, gives = "vote", ("probability", "readable"), ("votes",)

    def where(self, shared: Shared) -> Where:
        return "driver"

    def skipped(self, work: SlideWork) -> str | None:
        return work.why_not_predicted()

    def receipt(self, work: SlideWork) -> Receipt:
        return vote_receipt(work.table, work.shared.parameters.vote)

    def stored(self, work: SlideWork) -> Receipt | None:
        return work.table.vote_receipt(work.shared.parameters.vote.method)

    def run(self, work: SlideWork, progress: Progress) -> None:
        progress.start("vote", 1, "slide")
        vote(work.store, parameters=work.shared.parameters.vote, grid=work.table.name)
        progress.advance()
        progress.finish()


class Outputs(WorkStage):
    """Map, outlines, report and JSON in the results folder. The libraries that draw are imported when it runs."""

    name, needs, gives = "map and report", ("votes", "caption", "probability"), ("results",)

    def where(self, shared: Shared) -> Where:
        return "driver"

    def receipt(self, work: SlideWork) -> Receipt:
        from wsikit.results.outputs import outputs_receipt

        method = work.shared.parameters.vote.method
        return outputs_receipt(StoredResults(work.store, work.table.name, method, work.why_not_predicted()))

    def stored(self, work: SlideWork) -> Receipt | None:
        from wsikit.results.outputs import stored_outputs_receipt

        return stored_outputs_receipt(work.results)

    def run(self, work: SlideWork, progress: Progress) -> None:
        from wsikit.results.outputs import write_outputs

        progress.start(self.name, 1, "slide")
        drop_stale(work.table)
        work.summary = write_outputs(
            work.store,
            work.table,
            work.results,
            method=work.shared.parameters.vote.method,
            not_predicted=work.why_not_predicted(),
        )
        progress.advance()
        progress.finish()


def text_maps_of(shared: Shared) -> tuple[str, ...]:
    """Facts that are maps of words, of the model and of `RunParameters.without`."""
    read = (*shared.model.info.facts, *(fact for fact, _ in shared.parameters.without))
    return tuple(dict.fromkeys(fact for fact in read if fact.startswith(MAP_FACT)))


def stages_of(shared: Shared) -> tuple[Stage, ...]:
    """The stages of a run, in the order in which they run."""
    features = tuple(Features(encoder) for encoder in shared.encoders)
    made = [stage.gives[0] for stage in features]
    facts = text_maps_of(shared)
    maps = (TextMaps(facts, made),) if facts else ()
    read = [name for name in shared.model.info.feature_columns if name in made]
    predictions = Predictions([*read, *(name for stage in maps for name in stage.gives)])
    return (Pixels(), Tissue(), Patches(), Quality(), Captions(), *features, *maps, predictions, Vote(), Outputs())


def stage_groups(shared: Shared) -> list[tuple[Where, list[Stage]]]:
    """Consecutive stages on the same resource, as the scheduler carries them out."""
    return [(where, list(group)) for where, group in groupby(stages_of(shared), key=lambda stage: stage.where(shared))]


_LIKELY_TISSUE = 0.3
"""Share of a slide's patches that are tissue, before the mask is there."""


def prepare_workers(work: SlideWork) -> None:
    """Let worker processes start while a large slide is tiled, if its captions will be measured."""
    shared = work.shared
    measured = shared.captioner.mostly_python and Captions().where(shared) == "workers"
    if measured and work.patches.roi is None and work.lacks("caption"):
        shared.executor.get_ready(MEASURING_MODULES, seconds_of_python(likely_patches(work), work.patches.patch_px))


def likely_patches(work: SlideWork) -> float:
    """About how many patches the slide has, before its mask is there."""
    area = math.prod(work.slide.dimensions) * math.prod(work.slide.mpp)
    return _LIKELY_TISSUE * area / (work.patches.patch_px * work.patches.mpp) ** 2


def carry_out(stages: Sequence[Stage], work: SlideWork, progress: Progress) -> None:
    """Update the results of some stages of a slide, in order. Results that are up to date are kept.

    Raises
    ------
    StoreError
        A file could not be written. Stages raise further errors.
    """
    try:
        for tables, group in groupby(stages, key=lambda stage: isinstance(stage, TableStage)):
            if tables:
                _fill_table([stage for stage in group if isinstance(stage, TableStage)], work, progress)
                continue
            for stage in group:
                if isinstance(stage, WorkStage) and stage.skipped(work) is None:
                    stage.run(work, progress)
    except OSError as error:
        if isinstance(error, WsikitError):
            raise
        raise StoreError(
            f"{work.folder}: cannot be written ({error.strerror or error}); the slide is {work.slide.path}. Free "
            "disk space or check the drive, and run again: files written so far are kept."
        ) from error


def _fill_table(stages: Sequence[TableStage], work: SlideWork, progress: Progress) -> None:
    """On workers in one pass; on the device one after the other, as each may read the output of the previous."""
    for where, group in groupby(stages, key=lambda stage: stage.where(work.shared)):
        together = [stage for stage in group if stage.skipped(work) is None]
        for joined in [together] if where == "workers" else [[stage] for stage in together]:
            columns = [stage.columns(work) for stage in joined]
            if work.shared.spread is not None:
                columns = [work.shared.spread.over_workers(*pair, work) for pair in zip(joined, columns, strict=True)]
            fill_columns(work.store, work.table, columns, work.executor, progress)
            drop_stale(work.table)
