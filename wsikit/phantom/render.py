"""Render the scene to pixels: any box of level-0 pixels, independent of the requested box.

Stain amounts (haematoxylin, eosin, red) are computed per pixel, cells are drawn over them, and the Beer-Lambert law
gives the colour. Positions are in pixels of the slide; the scene itself uses µm.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from wsikit.phantom.cells import CODE, MARGIN_UM, OBJECT_KINDS, Cells, Objects
from wsikit.phantom.fields import Fields, Ground
from wsikit.phantom.noise import Box, FloatArray, grow, interpolated, jittered_sites, key_of
from wsikit.phantom.recipe import Recipe
from wsikit.phantom.sprites import bank
from wsikit.phantom.textures import SIDE, fibre_angle, textures

Rgb = npt.NDArray[np.uint8]
Plane = npt.NDArray[np.float32]
PxBox = tuple[int, int, int, int]
"""x, y, width, height in level-0 px."""

STEP_UM = 4.0
"""Spacing of the lattice on which the ground is known; between its points it is interpolated."""
NOISE_SIDE = 256
"""Period of the sensor noise, px: a glass tile of 256 px is then the same everywhere and is encoded once."""
OBJECT_MARGIN_UM = 34.0
"""Larger than half of the largest drawing plus the blur."""
_ROUGH_UM = 12.0
_BLUR_UM = 1.6
_FAT_UM = 62.0
_TEXTURES = ("fibrils", "grains", "fibres", "clumps", "red_cells")
_PLAIN = ("fibres", "red_cells")
"""Textures that are not overlaid with a shifted copy: crossed fibres would form a net."""
_BLASTS = ("blast_pale", "blast", "blast_dark")


@dataclass(frozen=True)
class Plot:
    """A box of the scene: the ground on its lattice and the objects in and near it."""

    box: PxBox
    first: tuple[int, int]
    """Row and column of the lattice's first point: it lies at (column, row) · step px."""
    ground: Ground
    """Over the box and the margin needed for placing objects."""
    objects: Objects
    """Objects whose centre is in the box or within `OBJECT_MARGIN_UM` of it."""


class Scene:
    """One synthetic slide, pixel for pixel, without a file."""

    def __init__(self, recipe: Recipe, mpp: float) -> None:
        self.recipe, self.mpp = recipe, mpp
        self.step_px = max(1, round(STEP_UM / mpp))
        self.fields = Fields(recipe)
        self._absorption = np.asarray(recipe.stain.absorption, np.float32)
        rng = np.random.default_rng([recipe.seed, 77])
        self._noise = (rng.standard_normal((NOISE_SIDE, NOISE_SIDE, 3)) * recipe.stain.noise).astype(np.float32)
        # every slide overlays the textures with its own offsets, so that no two slides share a pattern
        self._offsets = rng.integers(0, SIDE, (2 * len(_TEXTURES), 2)).tolist()

    def plot(self, box: PxBox) -> Plot:
        """Ground and objects of `box`, used by both `render` and the ground truth."""
        s, mpp = self.step_px, self.mpp
        margin = int(np.ceil((MARGIN_UM + OBJECT_MARGIN_UM) / (s * mpp))) + 1
        x, y, width, height = box
        first = (y // s - margin, x // s - margin)
        shape = (-((y + height) // -s) + 1 + margin - first[0], -((x + width) // -s) + 1 + margin - first[1])
        ground = self.fields.over(first, shape, s * mpp)

        def ground_at(px: FloatArray, py: FloatArray) -> Ground:
            rows, columns = (
                np.clip(np.rint(place / (s * mpp)).astype(np.int64) - k, 0, n - 1)
                for place, k, n in zip((py, px), first, shape)
            )
            return ground.take(rows, columns)

        if not ground.tissue.any():
            return Plot(box, first, ground, Objects.none())
        cells = Cells(self.recipe, ground_at, self._angle_at)
        um: Box = (x * mpp, y * mpp, (x + width) * mpp, (y + height) * mpp)
        return Plot(box, first, ground, cells.within(grow(um, OBJECT_MARGIN_UM)))

    def is_glass(self, box: PxBox) -> bool:
        """Whether `box` is bare glass with nothing on it."""
        x, y, width, height = box
        # first a coarse test with a wide margin: most of a large slide is far from tissue
        rough = max(self.step_px, round(_ROUGH_UM / self.mpp))
        gx, gy = np.meshgrid(
            np.arange(x, x + width + rough, rough) * self.mpp, np.arange(y, y + height + rough, rough) * self.mpp
        )
        if self.fields.far_from_tissue(gx, gy) and not self.recipe.pen:
            return True
        ground = self._view(self.plot(box), box)
        return not ground.tissue.any() and not ground.pen.any()

    def glass(self, width: int, height: int) -> Rgb:
        """Bare glass; equals `render` of a glass box whose corner lies on multiples of `NOISE_SIDE`."""
        blank = np.zeros((3, height, width), np.float32)
        return self._colour(blank, np.zeros((height, width), np.float32), (0, 0, width, height))

    def render(self, box: PxBox, plot: Plot | None = None) -> Rgb:
        """Pixels of `box`, uint8 (height, width, 3); optionally from the `plot` of a box that contains it."""
        plot = plot or self.plot(box)
        ground = self._view(plot, box)
        if ground.blur.any() and ground.tissue.any():
            amounts = self._blurred_amounts(box, ground)
        else:
            amounts = self._amounts(box, plot)
        return self._colour(amounts, self._spread(ground.pen, box), box)

    def _blurred_amounts(self, box: PxBox, ground: Ground) -> Plane:
        sigma = _BLUR_UM / self.mpp
        m = int(np.ceil(4 * sigma)) + 1
        x, y, width, height = box
        wide = (x - m, y - m, width + 2 * m, height + 2 * m)
        sharp = self._amounts(wide, self.plot(wide))
        soft = np.stack([ndimage.gaussian_filter(plane, sigma, truncate=4.0) for plane in sharp])
        inner = (slice(None), slice(m, m + height), slice(m, m + width))
        weight = self._spread(ground.blur, box)
        return np.asarray(sharp[inner] * (1 - weight) + soft[inner] * weight, np.float32)

    def _view(self, plot: Plot, box: PxBox) -> Ground:
        """The ground on the lattice points needed to interpolate within `box`."""
        s = self.step_px
        x, y, width, height = box
        row, column = y // s - plot.first[0], x // s - plot.first[1]
        n_rows, n_columns = -((y + height) // -s) + 1 - y // s, -((x + width) // -s) + 1 - x // s
        return plot.ground.take(slice(row, row + n_rows), slice(column, column + n_columns))

    def _amounts(self, box: PxBox, plot: Plot) -> Plane:
        """Stain amounts (3, height, width) of the section, before the scanner."""
        amounts = np.zeros((3, box[3], box[2]), np.float32)
        ground = self._view(plot, box)
        if not ground.tissue.any():
            return amounts
        self._lay_ground(amounts, box, ground)
        self._stamp(amounts, box, plot.objects)
        amounts *= self._spread(ground.tissue * ground.thickness, box)
        amounts[1] *= self._spread(1 + 0.15 * np.clip(ground.dye, -2, 2), box)
        return amounts

    def _lay_ground(self, amounts: Plane, box: PxBox, ground: Ground) -> None:
        recipe = self.recipe
        haematoxylin, eosin, red = amounts

        def plane(field: FloatArray) -> Plane:
            return self._spread(field, box)

        def tex(name: str) -> Plane:
            return self._texture(name, box)

        if ground.tumour.any():
            tumour, pool, fibrillary = plane(ground.tumour), plane(ground.pool), plane(ground.fibrillary)
            form = tex("grains")
            if ground.fibrillary.any():
                form = form + (tex("fibrils") - form) * fibrillary
            level = recipe.sheet_eosin + (recipe.matrix_eosin - recipe.sheet_eosin) * pool
            eosin += tumour * level * np.maximum(1 + (0.30 * recipe.texture) * form, 0.08)
            haematoxylin += tumour * (0.11 - 0.05 * pool)
        stroma, necrosis, blood, fat, lymphoid = ground.others
        if stroma.any() or ground.septa.any():
            weight, fibres = plane(stroma + ground.septa), tex("fibres")
            eosin += weight * 0.58 * np.clip(1 + 0.36 * fibres + 0.1 * tex("grains"), 0.03, 2)
            haematoxylin += weight * 0.05
        if necrosis.any():
            weight = plane(necrosis)
            eosin += weight * 0.56 * np.clip(1 + 0.34 * tex("clumps"), 0.1, 2)
            haematoxylin += weight * 0.10
        if blood.any():
            weight = plane(blood)
            red += weight * 0.62 * tex("red_cells")
            eosin += weight * 0.12
        if lymphoid.any():
            eosin += plane(lymphoid) * 0.26 * np.clip(1 + 0.25 * tex("grains"), 0.1, 2)
        if fat.any():
            eosin += plane(fat) * self._fat_walls(box)

    def _fat_walls(self, box: PxBox) -> Plane:
        """Thin walls between round, empty cells: where the two nearest cell centres are equally near."""
        x, y, width, height = box
        around: Box = (
            x * self.mpp - 2 * _FAT_UM, y * self.mpp - 2 * _FAT_UM,
            (x + width) * self.mpp + 2 * _FAT_UM, (y + height) * self.mpp + 2 * _FAT_UM,
        )  # fmt: skip
        sites = jittered_sites(key_of(self.recipe.seed, 18), around, _FAT_UM, 0.25)
        px = ((np.arange(width) + x + 0.5) * self.mpp)[None, :]
        py = ((np.arange(height) + y + 0.5) * self.mpp)[:, None]
        first = np.full((height, width), 1e9, np.float32)
        second = first.copy()
        for cx, cy in zip(sites.x, sites.y):
            # only the window that this cell can reach: sites are at most 1.5 spacings from any place
            reach = 1.6 * _FAT_UM / self.mpp
            c0, c1 = max(0, int(cx / self.mpp - reach) - x), min(width, int(cx / self.mpp + reach) - x)
            r0, r1 = max(0, int(cy / self.mpp - reach) - y), min(height, int(cy / self.mpp + reach) - y)
            if c0 >= c1 or r0 >= r1:
                continue
            d = np.sqrt((px[:, c0:c1] - cx) ** 2 + (py[r0:r1] - cy) ** 2).astype(np.float32)
            one, two = first[r0:r1, c0:c1], second[r0:r1, c0:c1]
            np.minimum(two, np.maximum(one, d), out=two)
            np.minimum(one, d, out=one)
        wall = np.clip(1.6 - 0.5 * (second - first), 0, 1)
        amount: Plane = 0.5 * wall + 0.015
        return amount

    def _stamp(self, amounts: Plane, box: PxBox, objects: Objects) -> None:
        """Draw the objects, kind by kind, in an order that does not depend on the box."""
        for kind in OBJECT_KINDS:
            chosen = objects.where(objects.kind == CODE[kind])
            if not len(chosen):
                continue
            if kind != "neuroblast":
                self._stamp_kind(amounts, box, kind, chosen)
                continue
            darkness = self.recipe.chromatin * 2 + 1.1 * ((chosen.variant * 97) % 1 - 0.5)
            which = np.clip(np.rint(darkness), 0, 2)
            for n, name in enumerate(_BLASTS):
                self._stamp_kind(amounts, box, name, chosen.where(which == n))

    def _stamp_kind(self, amounts: Plane, box: PxBox, name: str, objects: Objects) -> None:
        x, y, width, height = box
        sprites = bank(name, self.mpp)
        half = sprites.half
        left = np.floor(objects.x / self.mpp).astype(np.int64) - half - x
        top = np.floor(objects.y / self.mpp).astype(np.int64) - half - y
        side = 2 * half + 1
        seen = np.flatnonzero((left > -side) & (left < width) & (top > -side) & (top < height))
        places = (left[seen].tolist(), top[seen].tolist())
        index = (a[seen].tolist() for a in sprites.index(objects.size, objects.angle, objects.variant))
        for c, r, size, angle, variant in zip(*places, *index):
            keep, add = sprites.keep[size, angle, variant], sprites.add[size, angle, variant]
            if c < 0 or r < 0 or c + side > width or r + side > height:
                cut = (slice(None), slice(max(0, -r), height - r), slice(max(0, -c), width - c))
                keep, add = keep[cut], add[cut]
            view = amounts[:, max(0, r) : r + side, max(0, c) : c + side]
            view *= keep
            view += add

    def _spread(self, field: FloatArray, box: PxBox) -> Plane:
        """Interpolate a field of `_view` to the pixels of `box`, float32 (height, width)."""
        values = field.astype(np.float32)
        x, y, width, height = box
        if (values == values.flat[0]).all():
            return np.full((height, width), values.flat[0], np.float32)
        s = self.step_px
        return interpolated(values, s, (y % s, x % s), (height, width), middle=True)

    def _texture(self, name: str, box: PxBox) -> Plane:
        base = textures(self.mpp)[name]
        n = 2 * _TEXTURES.index(name)
        main = _window(base, box, self._offsets[n])
        if name in _PLAIN:
            return main
        x, y, width, height = box
        crossed = _window(base, (y, x, height, width), self._offsets[n + 1]).T
        return main * np.float32(0.8) + crossed * np.float32(0.6)

    def _colour(self, amounts: Plane, pen: Plane, box: PxBox) -> Rgb:
        stain = self.recipe.stain
        noise = _window(self._noise, box, [0, 0])
        out = np.empty((*amounts.shape[1:], 3), np.uint8)
        has_pen = bool(pen.any())
        for channel in range(3):
            a = self._absorption[:, channel]
            density = amounts[0] * a[0] + amounts[1] * a[1] + amounts[2] * a[2]
            if has_pen:
                density += pen * np.float32(1.6 * (1 - self.recipe.pen_colour[channel]))
            # the scanner's gamma acts on transmittance, so it is a factor on the density
            value = np.exp(density * np.float32(-2.303 * 0.62 * stain.gamma)) * np.float32(stain.background[channel])
            out[..., channel] = np.clip(np.rint(value + noise[..., channel]), 0, 255)
        return out

    def _angle_at(self, x: FloatArray, y: FloatArray) -> FloatArray:
        dx, dy = self._offsets[2 * _TEXTURES.index("fibres")]
        column = (np.floor(x / self.mpp).astype(np.int64) + dx) % SIDE
        row = (np.floor(y / self.mpp).astype(np.int64) + dy) % SIDE
        angle: FloatArray = fibre_angle(self.mpp)[row, column].astype(np.float64)
        return angle


def _window(texture: Plane, box: PxBox, offset: list[int]) -> Plane:
    """The part of a periodic texture, moved by `offset` (x, y) px, that lies over `box`."""
    x, y, width, height = box
    rows, columns = np.arange(y, y + height) + offset[1], np.arange(x, x + width) + offset[0]
    # one axis after the other: several times faster than both at once
    part: Plane = texture.take(rows % texture.shape[0], axis=0).take(columns % texture.shape[1], axis=1)
    return part
