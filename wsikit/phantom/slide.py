"""Make a synthetic slide of any size, block by block, with its ground truth: `make_phantom`."""

from __future__ import annotations

import logging
import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wsikit.errors import RequestError
from wsikit.geometry import PatchGrid
from wsikit.phantom.cells import OBJECT_KINDS
from wsikit.phantom.facts import ARTEFACTS, Facts, Tally, survey, tally
from wsikit.phantom.fields import GLASS, KINDS
from wsikit.phantom.pyramid import BLOCK_PX, TILE_PX, EncodedBlock, encode_block, write_pyramid
from wsikit.phantom.recipe import Recipe, draw_recipe
from wsikit.phantom.render import PxBox, Scene
from wsikit.phantom.truth import PhantomTruth, recipe_record, write_truth

log = logging.getLogger(__name__)

MPP_RANGE = (0.2, 1.05)
"""µm/px supported by the drawings of cells."""
_BIG_BYTES = 3.5e9
_BYTES_PER_PX = 0.8


@dataclass(frozen=True)
class _Order:
    """Input of a worker for making any block."""

    recipe: Recipe
    mpp: float
    size_px: tuple[int, int]
    stride: tuple[float, float]
    n_cols: int
    quality: int


def make_phantom(
    path: str | os.PathLike[str],
    *,
    size_px: tuple[int, int] = (4096, 4096),
    mpp: float = 0.5,
    subtype: str = "PD",
    seed: int = 0,
    tissue_fraction: float = 0.6,
    artefacts: bool = True,
    without: Collection[str] = (),
    patch_px: int = 224,
    patch_mpp: float = 0.5,
    quality: int = 85,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> PhantomTruth:
    """Write a synthetic neuroblastoma slide (H&E) and, next to it, its ground truth.

    The same arguments give the same bytes, whatever `workers` is.

    Parameters
    ----------
    path
        The slide, a tiled pyramidal TIFF (JPEG). An existing file of this name is replaced.
    size_px
        Width and height of level 0.
    mpp
        µm per pixel of level 0, 0.2-1.05.
    subtype
        "UD", "PD", "D" or "GNB-I".
    seed
        Any integer ≥ 0.
    tissue_fraction
        Fraction of the slide that is tissue, 0-1.
    artefacts
        Whether pen, folds and out-of-focus patches may occur.
    without
        Tissues that the slide has none of: "stroma", "necrosis", "blood", "fat", "lymphoid".
    patch_px, patch_mpp
        The grid of the truth table: side in px, at this many µm/px.
    quality
        JPEG quality, 1-100.
    workers
        Processes; 1 works in this process.
    progress
        Called with (blocks done, blocks in total).

    Raises
    ------
    RequestError
        If an argument is out of its range.

    Examples
    --------
    >>> import tempfile
    >>> truth = make_phantom(f"{tempfile.mkdtemp()}/slide.tiff", size_px=(512, 512), subtype="UD", seed=3)
    >>> truth.subtype
    'UD'
    """
    if min(size_px) < 1 or not MPP_RANGE[0] <= mpp <= MPP_RANGE[1]:
        raise RequestError(
            f"phantom of {size_px[0]} × {size_px[1]} px at {mpp} µm/px: ask for at least 1 px and "
            f"{MPP_RANGE[0]}-{MPP_RANGE[1]} µm/px"
        )
    if not 1 <= quality <= 100 or workers < 1:
        raise RequestError(f"quality {quality}, {workers} workers: ask for a quality of 1-100 and at least 1 worker")
    path = Path(path)
    grid = PatchGrid(size_px, (mpp, mpp), patch_px, patch_mpp)
    recipe = draw_recipe(
        seed,
        subtype,
        (size_px[0] * mpp, size_px[1] * mpp),
        tissue_fraction=tissue_fraction,
        artefacts=artefacts,
        without=without,
    )
    order = _Order(recipe, mpp, size_px, grid.stride, grid.n_cols, quality)
    book = _Book(order, grid)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        write_pyramid(
            part,
            _block_rows(order, grid, book, workers, progress),
            size_px=size_px,
            mpp=mpp,
            quality=quality,
            description=f"wsikit phantom, synthetic, not tissue; subtype {subtype}; seed {seed}",
            big=size_px[0] * size_px[1] * tissue_fraction * _BYTES_PER_PX > _BIG_BYTES or size_px[0] * size_px[1] > 6e9,
        )
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    truth = PhantomTruth(
        path=str(path), seed=seed, subtype=subtype, size_px=size_px, mpp=mpp, grid=grid, facts=book.facts(),
        tissue_mask=book.mask, mask_downsample=(book.mask_px, book.mask_px), chromatin=recipe.chromatin,
        recipe=recipe_record(recipe),
    )  # fmt: skip
    write_truth(truth)
    return truth


class _Book:
    """Sums the tallies of the blocks."""

    def __init__(self, order: _Order, grid: PatchGrid) -> None:
        n = grid.n_cols * grid.n_rows
        self._points = np.zeros((n, len(KINDS)), np.float64)
        self._artefacts = np.zeros((n, len(ARTEFACTS)), np.float64)
        self._counts = np.zeros((n, len(OBJECT_KINDS)), np.int64)
        self._scene_step = _scene(order).step_px
        per_column, per_row = (
            _points_per_patch(k, side, self._scene_step) for k, side in zip((grid.n_cols, grid.n_rows), grid.stride)
        )
        self._expected = np.maximum(1, np.outer(per_row, per_column)).ravel().astype(np.float64)
        self.mask_px = float(2 * self._scene_step)
        self.mask = np.zeros([int(-(-side // self.mask_px)) for side in order.size_px[::-1]], bool)

    def add(self, box: PxBox, part: Tally) -> None:
        self._points[part.patches] += part.points
        self._artefacts[part.patches] += part.artefacts
        self._counts[part.patches] += part.counts
        # every other lattice point is the centre of a mask pixel
        s = self._scene_step
        first_x, first_y = -(-box[0] // s), -(-box[1] // s)
        ky = np.arange(first_y, first_y + part.tissue.shape[0])
        kx = np.arange(first_x, first_x + part.tissue.shape[1])
        rows, columns = ky[ky % 2 == 1] // 2, kx[kx % 2 == 1] // 2
        inside = part.tissue[ky % 2 == 1][:, kx % 2 == 1][rows < self.mask.shape[0]][:, columns < self.mask.shape[1]]
        rows, columns = rows[rows < self.mask.shape[0]], columns[columns < self.mask.shape[1]]
        self.mask[np.ix_(rows, columns)] = inside

    def facts(self) -> Facts:
        n_points = self._expected[:, None]
        # blocks of bare glass have no tally: what is missing is glass
        self._points[:, GLASS] += self._expected - self._points.sum(axis=1)
        return Facts(
            (self._points / n_points).astype(np.float32),
            self._counts.astype(np.int32),
            (self._artefacts / n_points).astype(np.float32),
        )


def _points_per_patch(n: int, side: float, step_px: int) -> npt.NDArray[np.int64]:
    """Lattice points along one axis in each of n patches of `side` px."""
    points = np.arange(-(-int(np.ceil(n * side)) // step_px)) * step_px
    return np.bincount(np.floor(points / side).astype(np.int64), minlength=n)[:n]


def _block_rows(
    order: _Order, grid: PatchGrid, book: _Book, workers: int, progress: Callable[[int, int], None] | None
) -> Iterator[list[EncodedBlock]]:
    """Rows of encoded blocks, top to bottom; their tallies are added to the book."""
    boxes = _boxes(order.size_px, grid)
    total, done = sum(len(row) for row in boxes), 0
    made = _make_all(order, [box for row in boxes for box in row], workers)
    for row in boxes:
        blocks = []
        for box in row:
            encoded, part = next(made)
            book.add(box[1], part)
            blocks.append(encoded)
            done += 1
            if progress:
                progress(done, total)
        yield blocks


_Boxes = tuple[PxBox, PxBox]
"""The box to render (whole tiles) and the box to count (up to the grid's edge at the slide's edge)."""


def _boxes(size_px: tuple[int, int], grid: PatchGrid) -> list[list[_Boxes]]:
    spans = []
    for side, n, stride in zip(size_px, (grid.n_cols, grid.n_rows), grid.stride):
        reach = max(side, int(np.ceil(n * stride)))
        starts = list(range(0, side, BLOCK_PX))
        ends = [min(start + BLOCK_PX, -(-side // TILE_PX) * TILE_PX) for start in starts]
        counted = [*starts[1:], reach]
        spans.append([(start, end - start, count - start) for start, end, count in zip(starts, ends, counted)])
    return [[((x, y, w, h), (x, y, cw, ch)) for x, w, cw in spans[0]] for y, h, ch in spans[1]]


def _make_all(order: _Order, boxes: list[_Boxes], workers: int) -> Iterator[tuple[EncodedBlock, Tally]]:
    if workers == 1:
        yield from (_make_block(order, box) for box in boxes)
        return
    # spawn: forking a process with threads may deadlock
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        waiting: deque[Future[tuple[EncodedBlock, Tally]]] = deque()
        try:
            for box in boxes:
                waiting.append(pool.submit(_make_block, order, box))
                if len(waiting) > 3 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


@lru_cache(maxsize=2)
def _scene(order: _Order) -> Scene:
    return Scene(order.recipe, order.mpp)


@lru_cache(maxsize=8)
def _glass_block(order: _Order, width: int, height: int) -> EncodedBlock:
    return encode_block(_scene(order).glass(width, height), order.quality)


def _make_block(order: _Order, boxes: _Boxes) -> tuple[EncodedBlock, Tally]:
    scene = _scene(order)
    drawn, counted = boxes
    if scene.is_glass(drawn) and (drawn == counted or scene.is_glass(counted)):
        return _glass_block(order, drawn[2], drawn[3]), _glass_tally(scene, order, counted)
    plot = scene.plot((*drawn[:2], max(drawn[2], counted[2]), max(drawn[3], counted[3])))
    encoded = encode_block(scene.render(drawn, plot), order.quality)
    seen = survey(scene, plot, counted, order.size_px)
    return encoded, tally(seen, order.mpp, order.stride, order.n_cols)


def _glass_tally(scene: Scene, order: _Order, box: PxBox) -> Tally:
    """The result of `tally` on glass, without computing it."""
    x, y, width, height = box
    s = scene.step_px
    n_x, n_y = (-(-(a + b) // s) - -(-a // s) for a, b in ((x, width), (y, height)))
    nothing: npt.NDArray[np.int64] = np.zeros(0, np.int64)
    return Tally(
        nothing, np.zeros((0, len(KINDS)), np.int64), np.zeros((0, len(ARTEFACTS))),
        np.zeros((0, len(OBJECT_KINDS)), np.int64), np.zeros((n_y, n_x), bool),
    )  # fmt: skip
