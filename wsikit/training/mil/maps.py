"""Maps of some test slides after a training: classes and attention, in the frame and by the exporters of every map."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from wsikit.exporters.heatmap import write_map_png
from wsikit.exporters.quantity import read_quantity
from wsikit.exporters.scalemap import write_scale_png
from wsikit.inference.predict import predict
from wsikit.inference.vote import vote
from wsikit.models.mil_config import ATTENTION
from wsikit.models.protocol import PatchModel
from wsikit.results.load import StoredResults
from wsikit.slides.store import SlideStore
from wsikit.training.mil.cohort import Bag


def write_maps(
    model: PatchModel, bags: Sequence[Bag], folder: Path, *, on_done: Callable[[str], None] = lambda slide: None
) -> list[Path]:
    """Predict and vote on the stores of these slides; write <slide>.png and <slide>_attention.png for each.

    Slides without a store are left out. The predictions stay in the stores.
    """
    written = []
    for bag in bags:
        if not bag.store:
            continue
        folder.mkdir(parents=True, exist_ok=True)
        with SlideStore(bag.store) as store:
            table = predict(store, model=model, grid=bag.grid)
            vote(store, grid=bag.grid)
            results = StoredResults(store, bag.grid)
            paths = [folder / f"{bag.slide}.png", folder / f"{bag.slide}_attention.png"]
            write_map_png(paths[0], results.class_map, results.thumbnail, results.result, reason=results.reason)
            write_scale_png(paths[1], results.class_map, read_quantity(table, ATTENTION), results.thumbnail)
        written += paths
        on_done(bag.slide)
    return written
