"""Class maps for the tests of this folder, each made of a label raster and its closed-form truth."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from wsikit.exporters.classmap import ClassMap
from wsikit.exporters.palette import class_colors
from wsikit.geometry import PatchGrid
from wsikit.slides.store import SlideStore
from wsikit.store.receipts import Receipt
from wsikit.store.table import ColumnSpec, PatchTable
from wsikit.tiling.tile import tile

CLASSES = ("UD", "PD", "D", "other")
NAMES = ("undifferentiated", "poorly differentiated", "differentiating", "other tissue")


def class_map_of(
    raster: np.ndarray,
    *,
    mpp: tuple[float, float] = (0.5, 0.5),
    patch_px: int = 224,
    target_mpp: float = 0.5,
    overlap_px: int = 0,
    slide_px: tuple[int, int] | None = None,
    slide_id: str = "case 1/slide A",
    notice: str = "",
    certainty: np.ndarray | None = None,
) -> ClassMap:
    """A map of `raster` (n_rows, n_cols): class per grid cell, -1 = no prediction, -2 = no patch.

    `certainty` (n_rows, n_cols) is the probability of each cell's own class, 0.7 for all if None.
    """
    rows, cols = np.nonzero(raster > -2)
    labels = raster[rows, cols].astype(np.int64)
    if slide_px is None:
        slide_px = tuple(
            int(np.ceil((n * (patch_px - overlap_px) + overlap_px) * target_mpp / m))
            for n, m in zip(raster.shape[::-1], mpp)
        )
    grid = PatchGrid(slide_px, mpp, patch_px, target_mpp, overlap_px)
    own = np.full(len(labels), 0.7) if certainty is None else certainty[rows, cols]
    probs = np.repeat((1 - own)[:, None] / 3, 4, axis=1)
    probs[labels >= 0, labels[labels >= 0]] = own[labels >= 0]
    probs[labels < 0] = np.nan
    return ClassMap(
        slide_id=slide_id,
        grid=grid,
        mpp_source="vendor property aperio.MPP",
        coords=grid.coords(cols, rows),
        labels=labels,
        probs=probs,
        classes=CLASSES,
        class_names=NAMES,
        colors=class_colors(CLASSES, ("other",)),
        background=("other",),
        notice=notice,
    )


@pytest.fixture(scope="session", name="class_map_of")
def class_map_maker() -> Callable[..., ClassMap]:
    """`class_map_of(raster, …)` as a fixture, as tests do not import each other."""
    return class_map_of


@pytest.fixture(scope="session")
def small_map() -> ClassMap:
    """Three rows, four columns: a hole in UD, one cell without prediction, one without a patch."""
    return class_map_of(np.array([[0, 0, 0, 1], [0, 3, 0, -1], [0, 0, 0, -2]]), notice="demonstration model")


@pytest.fixture(scope="session")
def thumbnail() -> np.ndarray:
    """Even pink, uint8 (60, 80, 3): what is not pink-grey on a map was painted."""
    return np.full((60, 80, 3), (230, 190, 215), dtype=np.uint8)


def fill_column(table: PatchTable, name: str, values: np.ndarray, **attributes: object) -> None:
    """Write a column by hand."""
    dtype = "str" if values.dtype == object else values.dtype.name
    width = values.shape[1] if values.ndim == 2 else None
    for rows in table.prepare([ColumnSpec(name, dtype, width, attributes)], Receipt("test", 1, {"name": name})):
        table.write(name, rows, values[rows])


def add_findings(table: PatchTable) -> None:
    """What caption and predict would write, made up: row 0 could not be read."""
    rng = np.random.default_rng(4)
    n = len(table)
    probs = rng.dirichlet(np.ones(4), n).astype(np.float32)
    probs[0] = np.nan
    gate = rng.uniform(0, 1, n).astype(np.float32)
    gate[0] = np.nan
    model = {
        "name": "made up", "version": "1", "fingerprint": "0", "class_names": list(NAMES), "background": ["other"],
        "colors": ["#d55e00", "#f0e442", "#0072b2", "#8c8c8c"], "notice": "made up",
    }  # fmt: skip
    fill_column(table, "probability", probs, names=list(CLASSES), model=model)
    fill_column(table, "gate", gate)
    fill_column(table, "features_uni", rng.normal(size=(n, 6)).astype(np.float16))
    facts = np.stack([rng.uniform(1000, 9000, n), rng.uniform(0, 1, n)], axis=1).astype(np.float32)
    fill_column(table, "caption_facts", facts, names=["nuclei_per_mm2", "=fat_share"])
    captions = np.asarray([f"patch {row}" for row in range(n)], dtype=object)
    captions[1] = '=HYPERLINK("http://evil")'
    captions[2] = "small, round\nnuclei"
    fill_column(table, "caption", captions)


@pytest.fixture(scope="session")
def made_up_store(tmp_path_factory: pytest.TempPathFactory, write_slide: Callable, pixels: np.ndarray) -> Path:
    """The disc in patches of 100 level-0 px (50 px at 1 µm/px), with made-up findings."""
    folder = tmp_path_factory.mktemp("made_up")
    slide = write_slide(folder / "disc.tiff", pixels)
    store = tile(slide, folder / "disc.zarr", mpp=1.0, patch_px=50)
    add_findings(store.patches())
    return store.folder


@pytest.fixture
def store(made_up_store: Path, tmp_path: Path) -> SlideStore:
    """A copy that a test may write to."""
    shutil.copytree(made_up_store, tmp_path / "disc.zarr")
    return SlideStore(tmp_path / "disc.zarr")
