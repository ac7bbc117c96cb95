"""From the scene to pixels: any box of level-0 pixels, the same whatever box it was asked in.

Stain amounts (haematoxylin, eosin, red) are laid out per pixel, cells are stamped on them, and Beer-Lambert's law
makes colour. Places in pixels of the slide; the scene itself thinks in µm.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from wsikit.phantom.cells import CODE, OBJECT_KINDS, Cells, Objects
from wsikit.phantom.fields import Fields, Ground
from wsikit.phantom.noise import Box, FloatArray, jittered_sites, key_of
from wsikit.phantom.recipe import OTHER_TISSUES, Recipe
from wsikit.phantom.sprites import bank
from wsikit.phantom.textures import SIDE, fibre_angle, textures

Rgb = npt.NDArray[np.uint8]
Plane = npt.NDArray[np.float32]
PxBox = tuple[int, int, int, int]
"""x, y, width, height in level-0 px."""

STEP_UM = 4.0
"""Spacing of the lattice on which the ground is known; between its points it is interpolated."""
NOISE_SIDE = 256
"""Period of the sensor noise, px: a glass tile of 256 px is the same everywhere and is encoded once."""
_MARGIN_UM = 26.0
_ROUGH_UM = 12.0
_BLUR_UM = 1.6
_FAT_UM = 62.0
_BLASTS = ("blast_pale", "blast", "blast_dark")


@dataclass(frozen=True)
class Look:
    """The textures of one slide, in its own arrangement; periodic with SIDE px."""

    fibrils: Plane
    grains: Plane
    fibres: Plane
    clumps: Plane
    red_cells: Plane
    fibre_offset: tuple[int, int]


class Scene:
    """One synthetic slide, pixel for pixel, without a file."""

    def __init__(self, recipe: Recipe, mpp: float) -> None:
        self.recipe, self.mpp = recipe, mpp
        self.step_px = max(1, round(STEP_UM / mpp))
        self.fields = Fields(recipe)
        self.look = _arrange(recipe, mpp)
        self.cells = Cells(self.fields, self._angle_at)
        absorption = np.asarray(recipe.stain.absorption, np.float32)
        self._absorption = absorption
        rng = np.random.default_rng([recipe.seed, 77])
        self._noise = (rng.standard_normal((NOISE_SIDE, NOISE_SIDE, 3)) * recipe.stain.noise).astype(np.float32)

    def lattice(self, box: PxBox) -> tuple[FloatArray, FloatArray, Ground]:
        """Lattice places (px) and the ground there, for all lattice points needed to interpolate within `box`."""
        xs, ys = self._lattice_px(box)
        gx, gy = np.meshgrid(xs * self.mpp, ys * self.mpp)
        return xs, ys, self.fields.at(gx, gy)

    def _lattice_px(self, box: PxBox) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        x, y, width, height = box
        s = self.step_px
        xs = np.arange(x // s, -((x + width) // -s) + 1, dtype=np.int64) * s
        return xs, np.arange(y // s, -((y + height) // -s) + 1, dtype=np.int64) * s

    def is_glass(self, box: PxBox) -> bool:
        """Whether `box` is bare glass with nothing on it."""
        x, y, width, height = box
        # a coarse look with a wide berth first: most of a large slide is far from any tissue
        rough = max(self.step_px, round(_ROUGH_UM / self.mpp))
        gx, gy = np.meshgrid(
            np.arange(x, x + width + rough, rough) * self.mpp, np.arange(y, y + height + rough, rough) * self.mpp
        )
        if not self.fields.far_from_tissue(gx, gy):
            xs, ys = self._lattice_px(box)
            if self.fields.tissue(*np.meshgrid(xs * self.mpp, ys * self.mpp)).any():
                return False
        return not (self.recipe.pen and self.lattice(box)[2].pen.any())

    def glass(self, width: int, height: int) -> Rgb:
        """Bare glass; equals `render` of a glass box whose corner lies on multiples of `NOISE_SIDE`."""
        blank = np.zeros((3, height, width), np.float32)
        return self._colour(blank, np.zeros((height, width), np.float32), (0, 0, width, height))

    def render(self, box: PxBox) -> Rgb:
        """Pixels of `box`, uint8 (height, width, 3)."""
        xs, ys, ground = self.lattice(box)
        if ground.blur.any() and ground.tissue.any():
            return self._render_blurred(box, xs, ys, ground)
        amounts = self._amounts(box, xs, ys, ground)
        return self._colour(amounts, self._spread(ground.pen, xs, ys, box), box)

    def _render_blurred(self, box: PxBox, xs: FloatArray, ys: FloatArray, ground: Ground) -> Rgb:
        sigma = _BLUR_UM / self.mpp
        m = int(np.ceil(4 * sigma)) + 1
        x, y, width, height = box
        wide = (x - m, y - m, width + 2 * m, height + 2 * m)
        sharp = self._amounts(wide, *self.lattice(wide))
        soft = np.stack([ndimage.gaussian_filter(plane, sigma, truncate=4.0) for plane in sharp])
        inner = (slice(None), slice(m, m + height), slice(m, m + width))
        weight = self._spread(ground.blur, xs, ys, box)
        amounts = sharp[inner] * (1 - weight) + soft[inner] * weight
        return self._colour(amounts, self._spread(ground.pen, xs, ys, box), box)

    def _amounts(self, box: PxBox, xs: FloatArray, ys: FloatArray, ground: Ground) -> Plane:
        """Stain amounts (3, height, width) of the section, before the scanner."""
        amounts = np.zeros((3, box[3], box[2]), np.float32)
        if not ground.tissue.any():
            return amounts
        self._lay_ground(amounts, box, xs, ys, ground)
        m = _MARGIN_UM
        x, y, width, height = (v * self.mpp for v in box)
        self._stamp(amounts, box, self.cells.within((x - m, y - m, x + width + m, y + height + m)))
        amounts *= self._spread(ground.tissue * ground.thickness, xs, ys, box)
        return amounts

    def _lay_ground(self, amounts: Plane, box: PxBox, xs: FloatArray, ys: FloatArray, ground: Ground) -> None:
        recipe, look = self.recipe, self.look
        haematoxylin, eosin, red = amounts

        def plane(field: FloatArray) -> Plane:
            return self._spread(field, xs, ys, box)

        def tex(texture: Plane) -> Plane:
            return _window(texture, box)

        if ground.tumour.any():
            tumour, pool, fibrillary = plane(ground.tumour), plane(ground.pool), plane(ground.fibrillary)
            form = tex(look.grains)
            if ground.fibrillary.any():
                form = form + (tex(look.fibrils) - form) * fibrillary
            level = recipe.sheet_eosin + (recipe.matrix_eosin - recipe.sheet_eosin) * pool
            eosin += tumour * level * np.maximum(1 + (0.30 * recipe.texture) * form, 0.08)
            haematoxylin += tumour * (0.11 - 0.05 * pool)
        stroma, necrosis, blood, fat, lymphoid = ground.others
        if stroma.any() or ground.septa.any():
            weight, fibres = plane(stroma + ground.septa), tex(look.fibres)
            eosin += weight * 0.58 * np.clip(1 + 0.36 * fibres + 0.1 * tex(look.grains), 0.03, 2)
            haematoxylin += weight * 0.05
        if necrosis.any():
            weight = plane(necrosis)
            eosin += weight * 0.56 * np.clip(1 + 0.34 * tex(look.clumps), 0.1, 2)
            haematoxylin += weight * 0.10
        if blood.any():
            weight = plane(blood)
            red += weight * 0.62 * tex(look.red_cells)
            eosin += weight * 0.12
        if lymphoid.any():
            eosin += plane(lymphoid) * 0.26 * np.clip(1 + 0.25 * tex(look.grains), 0.1, 2)
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
        return 0.5 * wall + 0.015

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

    def _spread(self, field: FloatArray, xs: FloatArray, ys: FloatArray, box: PxBox) -> Plane:
        """Interpolate a lattice field to the pixels of `box`, float32 (height, width)."""
        s = self.step_px
        values = field.astype(np.float32)
        x, y, width, height = box
        if (values == values.flat[0]).all():
            return np.full((height, width), values.flat[0], np.float32)
        w = ((np.arange(s) + np.float32(0.5)) / np.float32(s)).astype(np.float32)
        rows = values[:-1, None, :] + np.diff(values, axis=0)[:, None, :] * w[None, :, None]
        rows = rows.reshape(-1, values.shape[1])[y - int(ys[0]) :][:height]
        full = rows[:, :-1, None] + np.diff(rows, axis=1)[:, :, None] * w
        return full.reshape(height, -1)[:, x - int(xs[0]) :][:, :width]

    def _colour(self, amounts: Plane, pen: Plane, box: PxBox) -> Rgb:
        stain = self.recipe.stain
        noise = _window_noise(self._noise, box)
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
        dx, dy = self.look.fibre_offset
        column = (np.floor(x / self.mpp).astype(np.int64) + dx) % SIDE
        row = (np.floor(y / self.mpp).astype(np.int64) + dy) % SIDE
        return fibre_angle(self.mpp)[row, column].astype(np.float64)


def _arrange(recipe: Recipe, mpp: float) -> Look:
    """Each slide lays the textures over themselves with its own offsets, so that no two slides share a pattern."""
    base = textures(mpp)
    rng = np.random.default_rng([recipe.seed, 55])

    def offset() -> tuple[int, int]:
        return int(rng.integers(SIDE)), int(rng.integers(SIDE))

    def rolled(texture: Plane, shift: tuple[int, int]) -> Plane:
        return np.roll(texture, (-shift[1], -shift[0]), axis=(0, 1))

    def doubled(texture: Plane) -> Plane:
        crossed = rolled(texture, offset()) * np.float32(0.8) + rolled(texture.T, offset()) * np.float32(0.6)
        return np.ascontiguousarray(crossed)

    fibre_shift = offset()
    return Look(
        fibrils=doubled(base["fibrils"]),
        grains=doubled(base["grains"]),
        fibres=rolled(base["fibres"], fibre_shift),
        clumps=doubled(base["clumps"]),
        red_cells=rolled(base["red_cells"], offset()),
        fibre_offset=fibre_shift,
    )


def _window(texture: Plane, box: PxBox) -> Plane:
    """The part of a periodic texture that lies over `box`."""
    x, y, width, height = box
    return texture.take(np.arange(y, y + height) % SIDE, axis=0).take(np.arange(x, x + width) % SIDE, axis=1)


def _window_noise(noise: Plane, box: PxBox) -> Plane:
    x, y, width, height = box
    rows, columns = np.arange(y, y + height) % NOISE_SIDE, np.arange(x, x + width) % NOISE_SIDE
    return noise.take(rows, axis=0).take(columns, axis=1)
