"""The caption stage: a text for each patch of a store, measured on workers or generated on one device."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from wsikit.captions.base import Captioner, FitsToSlide, in_parallel, is_mostly_python
from wsikit.captions.fields import field_of
from wsikit.errors import RequestError
from wsikit.executor import Executor
from wsikit.inference.applicability import check_captioned
from wsikit.inference.budget import Budget
from wsikit.inference.caption_columns import CaptionWriter, drop_stale
from wsikit.inference.caption_fields import check_budget
from wsikit.inference.generative_captions import CAPTION_REVISION, GenerativeCaptions
from wsikit.inference.sample import sample_of_slide
from wsikit.models.protocol import ImageFeatureExtractor, PatchModel
from wsikit.progress import SILENT, Progress
from wsikit.slides.store import SlideStore, StoreLike, open_store
from wsikit.store.receipts import Receipt
from wsikit.store.table import PatchTable, coords_digest
from wsikit.tiling.columns import ColumnStage, fill_columns

if TYPE_CHECKING:
    from wsikit.captions.registry import CaptionerOptions


def caption(
    store: StoreLike,
    *,
    captioner: Captioner | str = "morphometry",
    options: CaptionerOptions | None = None,
    device: str = "auto",
    budget: Budget | None = None,
    model: PatchModel | str | os.PathLike[str] | None = None,
    retry_failed: bool = False,
    grid: str | None = None,
    executor: Executor | None = None,
    progress: Progress = SILENT,
) -> PatchTable:
    """Describe the readable patches of a store: columns `caption` and, if facts are measured, `caption_facts`.

    After an interruption, the next call continues: no caption is requested twice. Equal settings keep the captions.
    Another prompt, model or budget replaces them, once all new ones are complete.

    Parameters
    ----------
    store
        A slide store, or its path.
    captioner, options, device
        A captioner, or what `wsikit.captions.load_captioner` takes.
    budget
        Maximum number of patches to describe; similar patches share captions. By default every patch is described.
    model
        With a budget: the model (or its name or folder) whose image features decide which patches are similar; without
        it, features of stain and texture do.
    retry_failed
        Request failed captions again; the others are kept.
    grid
        Name of the patch grid; not needed if the store has only one.
    executor
        Where measured captions run; by default on threads, one per CPU.
    progress
        Called at each step.

    Returns
    -------
    PatchTable
        With `caption`, text (N,), empty where there is none, and `caption_facts`, float32 (N, F), NaN where a fact
        could not be measured; the facts' names are in its attribute `names`. Generative captioners, and budgets, add
        `caption_source`, `caption_failure` and `caption_raw`: see
        `wsikit.inference.caption_columns`.

    Raises
    ------
    UnreachableError, ModelError
        The captioner fails permanently. Captions that are complete are kept.
    ModelError
        The slide has several fluorescence channels, which captioners do not describe.
    RequestError
        Captioner or options are unknown, or `model` has no image features. The captioner describes fields, and the
        store is too coarse for them, or there is a budget as well.

    Examples
    --------
    >>> import tempfile, wsikit
    >>> folder = tempfile.mkdtemp()
    >>> _ = wsikit.make_phantom(f"{folder}/slide.tiff", size_px=(448, 448))
    >>> table = wsikit.caption(wsikit.tile(f"{folder}/slide.tiff", f"{folder}/slide.zarr"))
    >>> all(table.read("caption")), table.read("caption_facts").shape[0] == len(table)
    (True, True)
    """
    from wsikit.captions import load_captioner

    opened = open_store(store)
    table = opened.patches(grid)
    check_captioned(opened)
    describer = load_captioner(captioner, options, device=device) if isinstance(captioner, str) else captioner
    stage = caption_stage(
        opened, table, describer, budget=budget, model=_with_features(model, device), retry_failed=retry_failed
    )
    fill_columns(opened, table, [stage], executor, progress)
    drop_stale(table)
    return table


def caption_stage(
    store: SlideStore,
    table: PatchTable,
    captioner: Captioner,
    *,
    budget: Budget | None = None,
    model: ImageFeatureExtractor | None = None,
    retry_failed: bool = False,
) -> ColumnStage:
    """The stage that `caption` runs: on workers for a captioner that runs in parallel, else on one device.

    A captioner that is fitted to each slide (`FitsToSlide`) is fitted here, to a sample of the slide's patches.
    """
    field = field_of(captioner)
    check_budget(budget, None if field is None else field.px)
    if isinstance(captioner, FitsToSlide):
        captioner = _fitted(captioner, store, table)
    if budget is not None and budget.captions >= len(table):
        budget = None  # every patch may have its own caption
    if not in_parallel(captioner) or budget is not None:
        return GenerativeCaptions(store, table, captioner, budget, model, retry_failed).stage()
    writer = CaptionWriter.of(captioner)
    receipt = Receipt("caption", CAPTION_REVISION, captioner.fingerprint(), {"patches": coords_digest(table)})
    slow = is_mostly_python(captioner)
    return ColumnStage("captions", writer.specs, receipt, _Describe(captioner, writer), mostly_python=slow)


@dataclass(frozen=True)
class _Describe:
    """Captions of some patches (a picklable function)."""

    captioner: Captioner
    writer: CaptionWriter

    def __call__(
        self, images: npt.NDArray[np.uint8], readable: npt.NDArray[np.bool_], mpp: float
    ) -> dict[str, npt.NDArray[Any]]:
        columns = self.writer.blank(len(images))
        seen = np.flatnonzero(readable)
        for index, found in zip(seen, self.captioner.caption(images[seen], mpp=mpp), strict=True):
            columns["caption"][index] = found.text
            self.writer.put_facts(columns, int(index), found.facts)
        return columns


def _with_features(model: PatchModel | str | os.PathLike[str] | None, device: str) -> ImageFeatureExtractor | None:
    """The model whose image features are compared; RequestError if it has none."""
    if model is None:
        return None
    if isinstance(model, str | os.PathLike):
        from wsikit.models.registry import load_patch_model

        model = load_patch_model(model, device=device)  # type: ignore[arg-type]
    if not isinstance(model, ImageFeatureExtractor):
        raise RequestError(
            f"model {model.info.name} has no image features to compare patches by. Leave out the model: patches are "
            "then compared by stain and texture."
        )
    return model


def _fitted(captioner: FitsToSlide, store: SlideStore, table: PatchTable) -> Captioner:
    """The captioner fitted to this slide."""
    return captioner.fit(sample_of_slide(store, table), mpp=table.grid.target_mpp)
