"""The caption stage: words for the patches of a store. Measuring is spread over workers; generating is not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from wsikit.captions.base import Captioner, FitsToSlide, in_parallel, sample_rows
from wsikit.executor import Executor
from wsikit.inference.budget import Budget
from wsikit.inference.caption_columns import drop_stale
from wsikit.inference.generative import CAPTION_REVISION, SlowCaptions
from wsikit.progress import SILENT, Progress
from wsikit.slides.store import SlideStore, StoreLike, open_store
from wsikit.store.receipts import Receipt
from wsikit.store.table import ColumnSpec, PatchTable, coords_digest
from wsikit.tiling.columns import ColumnStage, fill_columns
from wsikit.tiling.stream import iterate_patches

if TYPE_CHECKING:
    from wsikit.captions.registry import CaptionerOptions
    from wsikit.inference.predict import Predictor

_AT_ONCE = 64


def caption(
    store: StoreLike,
    *,
    captioner: Captioner | str = "morphometry",
    options: CaptionerOptions | None = None,
    device: str = "auto",
    budget: Budget | None = None,
    model: Predictor | None = None,
    retry_failed: bool = False,
    grid: str | None = None,
    executor: Executor | None = None,
    progress: Progress = SILENT,
) -> PatchTable:
    """Describe the readable patches of a store in words: columns `caption`, and `caption_facts` if it states facts.

    Run again after an interruption, it asks for nothing that it has. Another prompt, model or budget replaces the
    captions, once all new ones are there; equal settings keep them.

    Parameters
    ----------
    store
        A slide store, or its path.
    captioner, options, device
        A captioner, or what `wsikit.captions.load_captioner` takes.
    budget
        Describe that many patches at most and let others like them share; by default every patch is described.
    model
        Whose image branch says which patches are alike; without it, stain and texture do.
    retry_failed
        Ask again for what failed, keeping the rest.
    grid
        Name of the patch grid; not needed where the store has one only.

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
        The captioner fails for good. What it has said is kept.
    """
    from wsikit.captions import load_captioner

    opened = open_store(store)
    table = opened.patches(grid)
    describer = load_captioner(captioner, options, device=device) if isinstance(captioner, str) else captioner
    if isinstance(describer, FitsToSlide):
        describer = _settled(describer, opened, table)
    if budget is not None and budget.captions >= len(table):
        budget = None  # it asks for no less than everything
    if in_parallel(describer) and budget is None:
        progress.start("captions", len(table), "patches")
        fill_columns(opened, table, [caption_stage(table, describer)], executor or Executor(), progress.advance)
        progress.finish()
    else:
        SlowCaptions(opened, table, describer, budget, model, progress).run(retry_failed)
    drop_stale(table)
    return table


def _settled(captioner: FitsToSlide, store: SlideStore, table: PatchTable) -> Captioner:
    """The captioner for this slide, by a sample of its readable patches; the same sample each time."""
    coords = table.coords[sample_rows(len(table))]
    seen = []
    for _, batch in iterate_patches(store, table.grid, coords, _ranges(len(coords))):
        seen.append(batch.images[batch.readable])
    side = table.grid.patch_px
    return captioner.fit(np.concatenate([np.empty((0, side, side, 3), np.uint8), *seen]), mpp=table.grid.target_mpp)


def _ranges(n: int) -> list[slice]:
    return [slice(first, min(first + _AT_ONCE, n)) for first in range(0, n, _AT_ONCE)]


def caption_stage(table: PatchTable, captioner: Captioner) -> ColumnStage:
    """What `caption` computes with a captioner that runs in parallel, for `fill_columns`: alone, or beside others."""
    names = list(captioner.fact_names)
    receipt = Receipt("caption", CAPTION_REVISION, captioner.fingerprint(), {"patches": coords_digest(table)})
    specs = (
        ColumnSpec("caption", "str", attributes={"captioner": captioner.name}),
        ColumnSpec("caption_facts", "float32", len(names), {"names": names, "captioner": captioner.name}),
    )
    return ColumnStage("captions", specs, receipt, _Describe(captioner))


@dataclass(frozen=True)
class _Describe:
    """Captions of some patches (a picklable function)."""

    captioner: Captioner

    def __call__(
        self, images: npt.NDArray[np.uint8], readable: npt.NDArray[np.bool_], mpp: float
    ) -> dict[str, npt.NDArray[Any]]:
        names = self.captioner.fact_names
        texts = np.full(len(images), "", dtype=object)
        facts = np.full((len(images), len(names)), np.nan, dtype=np.float32)
        seen = np.flatnonzero(readable)
        for index, found in zip(seen, self.captioner.caption(images[seen], mpp=mpp), strict=True):
            texts[index] = found.text
            facts[index] = [found.facts.get(name, np.nan) for name in names]
        return {"caption": texts, "caption_facts": facts}
