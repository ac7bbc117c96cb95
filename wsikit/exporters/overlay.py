"""The map as an image: classes as translucent colours over the grey thumbnail, sharp at patch borders. NumPy, Pillow.

Frame: the whole slide; output pixels are square in µm.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from wsikit.exporters.classmap import ClassMap
from wsikit.exporters.palette import UNPREDICTED_COLOR
from wsikit.geometry import PatchGrid

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

FAINTEST, STRONGEST = 0.38, 0.74
"""Opacity of a class at chance level and at certainty: always visible, and never hiding the slide."""
BACKGROUND_OPACITY = 0.16
UNPREDICTED_OPACITY = 0.45
TISSUE_COLOR = (86, 110, 140)
"""Colour of patches on a map without predictions."""
BORDER_TONE = 0.55
HATCH_PX = 6
UNREAD_TONES = (90, 170)
"""Grey values of the stripes over unreadable parts of the slide."""
LINE_OPACITY = 0.85
_LARGE_CELLS = 200_000
_EXACT_SQUARED = 250_000
LINE_CELL_PX = 4
"""Image px per patch below which outlines are left out: they would only darken the map."""


def picture_size(grid: PatchGrid, max_width: int, max_height: int) -> tuple[int, int]:
    """Width and height in px, at least 1, of the largest image of the slide that fits; its pixels are square in µm.

    >>> picture_size(PatchGrid((4000, 2000), (0.5, 0.5), 224, 0.5), 100, 100)
    (100, 50)
    """
    width_um, height_um = (px * mpp for px, mpp in zip(grid.slide_px, grid.slide_mpp))
    scale = min(max_width / width_um, max_height / height_um)
    return max(1, round(width_um * scale)), max(1, round(height_um * scale))


def paint_map(class_map: ClassMap, thumbnail: Pixels, size: tuple[int, int]) -> Pixels:
    """Paint the classes over the slide.

    Parameters
    ----------
    class_map
        The classes to paint. Without predictions all patches have one neutral colour.
    thumbnail
        uint8 (h, w, 3) RGB of the whole slide.
    size
        Width and height of the image, px; see `picture_size`.

    Returns
    -------
    uint8 (height, width, 3). Tissue is grey, so that eosin and haematoxylin are not mistaken for a class; the opacity
    of a class increases with its probability; background is faint; unpredicted patches are hatched.
    """
    grey = _lightened(_grey(thumbnail, size))
    cells = cells_of_pixels(class_map, size)
    if cells is None:
        return np.repeat(np.rint(grey).astype(np.uint8)[..., None], 3, axis=2)
    row_index, col_index, inside = cells
    colors, opacity = paint_of_cells(class_map)
    labels = class_map.cell_labels.astype(np.int16)[row_index][:, col_index]
    alpha = opacity[row_index][:, col_index]
    if not inside.all():
        labels[~inside], alpha[~inside] = -2, 0.0
    hatched = _hatched(labels) if (class_map.labels >= 0).any() else None
    lined = None
    if class_map.grid.stride[0] * size[0] >= LINE_CELL_PX * class_map.grid.slide_px[0]:
        lined = np.flatnonzero(_borders(labels, [*class_map.voting, -1]))
    place = labels.astype(np.intp)  # -1 and -2 pick the last two colours
    under, shade = grey * (1 - alpha), 0.35 + 0.65 * grey / 255.0  # as in `tint`, once for all channels
    painted: Pixels = np.empty((*grey.shape, 3), dtype=np.uint8)
    for channel, tone in enumerate(colors.T):
        color = tone[place]
        mixed = (under + color * shade * alpha).ravel()
        if hatched is not None:
            mixed[hatched] = 0.2 * mixed[hatched] + 0.8 * 255.0
        if lined is not None:
            line = color.ravel()[lined] * BORDER_TONE
            mixed[lined] = mixed[lined] * (1 - LINE_OPACITY) + line * LINE_OPACITY
        painted[..., channel] = np.rint(mixed).reshape(grey.shape)
    return painted


def _hatched(labels: npt.NDArray[np.int16]) -> npt.NDArray[np.int64] | None:
    """Places of the white diagonals, as in `hatch`, in the flat image; None if there are none."""
    unpredicted = np.flatnonzero(labels == -1)
    if not len(unpredicted):
        return None
    rows, cols = np.divmod(unpredicted, labels.shape[1])
    return unpredicted[(rows + cols) % HATCH_PX < 2]


def _borders(labels: npt.NDArray[np.int16], outlined: list[int]) -> npt.NDArray[np.bool_]:
    """The outermost pixels of the regions of these labels, inside their own cells."""
    border = np.zeros(labels.shape, dtype=bool)
    for upper, lower in ((np.s_[:-1], np.s_[1:]), (np.s_[:, :-1], np.s_[:, 1:])):
        differs = labels[upper] != labels[lower]
        border[upper] |= differs
        border[lower] |= differs
    return border & np.isin(labels, outlined)


def _grey(thumbnail: Pixels, size: tuple[int, int]) -> Pixels:
    """(h, w) luminance of the slide at `size` (width, height)."""
    return np.asarray(Image.fromarray(thumbnail).convert("L").resize(size, Image.Resampling.LANCZOS))


def _lightened(grey: Pixels) -> Floats:
    return 255.0 - (255.0 - grey.astype(np.float32)) * 0.72


def grey_slide(thumbnail: Pixels, size: tuple[int, int]) -> Floats:
    """(h, w, 3) luminance of the slide at `size` (width, height), lightened so that colour shows on dense tissue."""
    return to_grey(_grey(thumbnail, size))


def to_grey(pixels: Pixels) -> Floats:
    """(h, w, 3) lightened luminance of (h, w, 3) RGB or (h, w) grey."""
    grey = pixels if pixels.ndim == 2 else np.asarray(Image.fromarray(pixels).convert("L"))
    return np.repeat(_lightened(grey)[..., None], 3, axis=2)


def cells_of_pixels(
    class_map: ClassMap, size: tuple[int, int]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.bool_]] | None:
    """Partition row per image row, column per image column, and (h, w) whether the pixel is on the partition."""
    partition = class_map.partition
    if partition.patch.size == 0:
        return None
    indices, within = [], []
    for edges, n_px, slide_px in zip((partition.y_edges, partition.x_edges), size[::-1], class_map.grid.slide_px[::-1]):
        place = (np.arange(n_px) + 0.5) * (slide_px / n_px)  # level-0 px of pixel centres
        index = np.searchsorted(edges, place, side="right") - 1
        within.append((index >= 0) & (index < len(edges) - 1))
        indices.append(np.clip(index, 0, len(edges) - 2))
    return indices[0], indices[1], within[0][:, None] & within[1][None, :]


def paint_of_cells(class_map: ClassMap) -> tuple[Floats, Floats]:
    """(C + 2, 3) colour of each label, then of -2 and -1; (n_rows, n_cols) opacity of each cell."""
    n_classes = len(class_map.classes)
    without = UNPREDICTED_COLOR if (class_map.labels >= 0).any() else TISSUE_COLOR
    colors = np.array([*class_map.colors, (255, 255, 255), without], dtype=np.float32)
    chance = 1.0 / max(n_classes, 1)
    certainty = np.clip((np.nan_to_num(class_map.top_probs, nan=1.0) - chance) / max(1 - chance, 1e-9), 0, 1)
    opacity = FAINTEST + (STRONGEST - FAINTEST) * certainty
    background = [class_map.classes.index(code) for code in class_map.background]
    opacity = np.where(np.isin(class_map.labels, background), BACKGROUND_OPACITY, opacity)
    opacity = np.where(class_map.labels == -1, UNPREDICTED_OPACITY, opacity)
    return colors, class_map.partition.spread(opacity.astype(np.float32), 0.0)


def tint(base: Floats, color: Floats, alpha: Floats) -> Floats:
    """`color` over `base`, multiplied with its grey value so that the tissue's texture stays visible."""
    return (base * (1 - alpha) + color * (0.35 + 0.65 * base / 255.0) * alpha).astype(np.float32)


def hatch(painted: Floats, labels: npt.NDArray[np.int64], start: int = 0) -> Floats:
    """White diagonals where labels are -1 (no prediction). `start`: x + y of the corner."""
    height, width = labels.shape
    diagonal = start + np.arange(height)[:, None] + np.arange(width)[None, :]
    stripes = (labels == -1) & (diagonal % HATCH_PX < 2)
    return np.where(stripes[..., None], 0.2 * painted + 0.8 * 255.0, painted).astype(np.float32)


def swatch(class_map: ClassMap, index: int, size: tuple[int, int]) -> Pixels:
    """uint8 (height, width, 3): the colours of a class over pale tissue, from uncertain (left) to certain.

    `index` is into `class_map.classes`; -1 are patches without prediction.
    """
    width, height = size
    base = np.full((height, width, 3), 235.0, dtype=np.float32)
    labels = np.full((height, width), index)
    any_prediction = bool((class_map.labels >= 0).any())
    if index < 0:
        color, alpha = (UNPREDICTED_COLOR if any_prediction else TISSUE_COLOR), np.full(width, UNPREDICTED_OPACITY)
    elif class_map.classes[index] in class_map.background:
        color, alpha = class_map.colors[index], np.full(width, BACKGROUND_OPACITY)
    else:
        color, alpha = class_map.colors[index], np.linspace(FAINTEST, STRONGEST, width)
    painted = tint(base, np.array(color, dtype=np.float32), alpha[None, :, None].astype(np.float32))
    painted = hatch(painted, labels) if index < 0 and any_prediction else painted
    return painted.round().astype(np.uint8)


@dataclass(frozen=True)
class Tag:
    """Position of a class's code on the map: well inside its largest region."""

    index: int
    """Into `ClassMap.classes`."""
    x: float
    y: float
    """Level-0 px."""
    room: float
    """Distance to the region's nearest border, level-0 px (of the narrower axis)."""


def class_tags(class_map: ClassMap) -> list[Tag]:
    """One tag per voting class on the map, so that the map can be read without colour."""
    partition = class_map.partition
    cell_px = min(np.diff(partition.x_edges).max(initial=0), np.diff(partition.y_edges).max(initial=0))
    tags = []
    for index in class_map.voting:
        own = np.pad(class_map.cell_labels == index, 1)
        if not own.any():
            continue
        region, _ = ndimage.label(own)
        sizes = np.bincount(region.ravel())
        sizes[0] = 0
        row, col, depth = deepest_cell(region == sizes.argmax())
        row, col = row - 1, col - 1  # the padding
        x, y = (float(edges[at : at + 2].mean()) for edges, at in ((partition.x_edges, col), (partition.y_edges, row)))
        tags.append(Tag(index, x, y, float((depth - 0.5) * cell_px)))
    return tags


def deepest_cell(own: npt.NDArray[np.bool_]) -> tuple[int, int, float]:
    """Row and column of the cell farthest from all cells that are False, the first of equals, and its distance.

    >>> deepest_cell(np.pad(np.ones((3, 5), dtype=bool), 1))
    (2, 2, 2.0)
    """
    if own.size >= _LARGE_CELLS:
        import cv2  # four to ten times as fast as SciPy; imported only where that is more than the import takes

        squared = cv2.distanceTransform(own.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE).astype(np.float64)
        np.square(squared, out=squared)
        at = int(squared.argmax())
        if squared.flat[at] < _EXACT_SQUARED:
            # squared distances of cells are integers: rounding removes the error of 32-bit floats
            at = int(np.rint(squared, out=squared).argmax())
            return at // own.shape[1], at % own.shape[1], math.sqrt(squared.flat[at])
    depth = ndimage.distance_transform_edt(own)
    at = int(depth.argmax())
    return at // own.shape[1], at % own.shape[1], float(depth.flat[at])
