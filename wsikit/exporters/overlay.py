"""The map as an image: classes as translucent colours over the grey thumbnail, sharp at patch borders. NumPy, Pillow.

Frame: the whole slide; output pixels are square in µm.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from wsikit.exporters.classmap import ClassMap
from wsikit.geometry import PatchGrid

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

FAINTEST, STRONGEST = 0.38, 0.74
"""Opacity of a class at chance level and at certainty: always visible, and never hiding the slide."""
BACKGROUND_OPACITY = 0.16
UNPREDICTED_OPACITY = 0.45
UNPREDICTED_COLOR = (70, 70, 70)
TISSUE_COLOR = (86, 110, 140)
"""Colour of patches on a map without predictions."""
BORDER_TONE = 0.55
HATCH_PX = 6
UNREAD_TONES = (90, 170)
"""Grey values of the stripes over unreadable parts of the slide."""
LINE_OPACITY = 0.85
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
    base = grey_slide(thumbnail, size)
    cells = cells_of_pixels(class_map, size)
    if cells is None:
        return base.round().astype(np.uint8)
    row_index, col_index, inside = cells
    labels = np.where(inside, class_map.cell_labels[np.ix_(row_index, col_index)], -2)
    colors, opacity = paint_of_cells(class_map)
    alpha = np.where(inside, opacity[np.ix_(row_index, col_index)], 0.0)[..., None]
    color = colors[labels]  # -1 and -2 pick the last two rows
    painted = tint(base, color, alpha.astype(np.float32))
    painted = hatch(painted, labels) if (class_map.labels >= 0).any() else painted
    if class_map.grid.stride[0] * size[0] >= LINE_CELL_PX * class_map.grid.slide_px[0]:
        painted = _draw_borders(painted, labels, colors, class_map)
    return painted.round().astype(np.uint8)


def grey_slide(thumbnail: Pixels, size: tuple[int, int]) -> Floats:
    """(h, w, 3) luminance of the slide at `size` (width, height), lightened so that colour shows on dense tissue."""
    return to_grey(np.asarray(Image.fromarray(thumbnail).convert("L").resize(size, Image.Resampling.LANCZOS)))


def to_grey(pixels: Pixels) -> Floats:
    """(h, w, 3) lightened luminance of (h, w, 3) RGB or (h, w) grey."""
    grey = pixels if pixels.ndim == 2 else np.asarray(Image.fromarray(pixels).convert("L"))
    light = 255.0 - (255.0 - grey.astype(np.float32)) * 0.72
    return np.repeat(light[..., None], 3, axis=2)


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


def _draw_borders(painted: Floats, labels: npt.NDArray[np.int64], colors: Floats, class_map: ClassMap) -> Floats:
    """Outline the regions of voting classes in a darker tone of their colour, inside their own cells."""
    outlined = [*class_map.voting, -1]
    owned = np.isin(labels, outlined)
    border = np.zeros(labels.shape, dtype=bool)
    for axis in (0, 1):
        differs = np.diff(labels, axis=axis) != 0
        before, after = [slice(None)] * 2, [slice(None)] * 2
        before[axis], after[axis] = slice(None, -1), slice(1, None)
        border[tuple(before)] |= differs
        border[tuple(after)] |= differs
    line = colors[labels] * BORDER_TONE
    mixed = painted * (1 - LINE_OPACITY) + line * LINE_OPACITY
    return np.where((border & owned)[..., None], mixed, painted).astype(np.float32)


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
        depth = ndimage.distance_transform_edt(region == sizes.argmax())
        row, col = (at - 1 for at in divmod(int(depth.argmax()), depth.shape[1]))  # -1: the padding
        x, y = (float(edges[at : at + 2].mean()) for edges, at in ((partition.x_edges, col), (partition.y_edges, row)))
        tags.append(Tag(index, x, y, float((depth.max() - 0.5) * cell_px)))
    return tags
