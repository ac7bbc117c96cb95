"""Stain normalisation, Macenko's and Reinhard's: the tissue of each slide is brought to the stain of a reference.

For models that were trained on normalised patches, and for slides whose stain is far from the training slides. A slide
is normalised by its own stain, estimated from a sample of its tissue patches. Glass keeps its pixels.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from wsikit.errors import RequestError
from wsikit.slides.base import Slide

REVISION = 1
"""Part of the fingerprint; raised when the same reference gives other pixels."""

GLASS = 90.0
"""CIELAB lightness above which a pixel is glass: Reinhard's method neither measures nor changes it."""

MIN_DENSITY = 0.15
"""Mean optical density (log10) of the channels below which a pixel is glass for Macenko's method."""

MIN_PIXELS = 100
"""Tissue pixels needed to estimate the stain of a slide."""

REFERENCE_PATCHES = 64
"""Tissue patches of a reference slide that are read, evenly spread over its tissue."""

_REFERENCE_PX = 224  # side of these patches
_REFERENCE_MPP = 0.5  # and their pixel size, or the slide's own if that is coarser
_REFERENCE_TISSUE = 0.5  # least share of tissue in them
_PICTURE_PX = 2048  # longer side to which a reference picture is reduced
_DECIMALS = 6  # of a reference's numbers, so that its fingerprint is the same on every machine
_EXTREME = 1.0  # percentile: pixels beyond either stain's direction, and beyond its maximum concentration
_MAX_PIXELS = 1_000_000  # used to estimate the stains of a slide, evenly spread
_MAX_CONDITION = 50.0  # condition number of the stain matrix; above it, both stains are one direction but for noise

Image = npt.NDArray[np.uint8]
Three = tuple[float, float, float]


class StainColours(ABC):
    """The stain of some tissue, as one method describes it."""

    @classmethod
    @abstractmethod
    def fit(cls, images: Image) -> Self:
        """Estimate it from `images`, uint8 (N, H, W, 3) RGB. RequestError if they hold too little tissue."""

    @abstractmethod
    def recolour(self, pixels: Image, own: StainColours) -> Image:
        """`pixels`, uint8 (…, 3), whose stain is `own`, brought to this stain. Depends on each pixel alone."""

    @abstractmethod
    def record(self) -> dict[str, Any]:
        """Method, constants and values, JSON-ready."""

    @abstractmethod
    def rounded(self) -> Self:
        """The same with its numbers rounded to `_DECIMALS`."""


@dataclass(frozen=True)
class Reinhard(StainColours):
    """Mean and standard deviation of the tissue in CIELAB (Reinhard et al. 2001, IEEE Comput Graph Appl 21:34)."""

    mean: Three
    """L, a, b"""
    std: Three

    @classmethod
    def fit(cls, images: Image) -> Reinhard:
        """Measure the colours of `images`, uint8 (N, H, W, 3). For a reference: training patches, never test patches.

        Raises
        ------
        RequestError
            If they hold too little tissue.
        """
        n, total, squares = 0, np.zeros(3), np.zeros(3)
        for image in images:  # one by one: as floats they are eight times as large
            lab = _lab(image)
            tissue = lab[lab[..., 0] <= GLASS]
            n, total, squares = n + len(tissue), total + tissue.sum(axis=0), squares + (tissue**2).sum(axis=0)
        _check_tissue(n, len(images))
        mean = total / n
        std = np.sqrt(np.maximum(squares / n - mean**2, 0.0))
        return cls(_three(mean), _three(std))

    def recolour(self, pixels: Image, own: StainColours) -> Image:
        """Shift and scale L, a and b of the tissue from the mean and standard deviation of `own` to these."""
        from skimage.color import lab2rgb

        assert isinstance(own, Reinhard)
        lab = _lab(pixels)
        scale = np.array(self.std) / np.maximum(np.array(own.std), 1e-6)
        changed = (lab - np.array(own.mean)) * scale + np.array(self.mean)
        changed[..., 0] = changed[..., 0].clip(0, 100)
        rgb = np.rint(lab2rgb(changed).clip(0, 1) * 255).astype(np.uint8)
        return np.where(lab[..., :1] > GLASS, pixels, rgb)

    def record(self) -> dict[str, Any]:
        """What describes this stain, JSON-ready."""
        values = {"mean": list(self.mean), "std": list(self.std)}
        return {"method": "Reinhard", "space": "CIELAB", "glass_above_L": GLASS} | values

    def rounded(self) -> Reinhard:
        """The same with rounded numbers."""
        return Reinhard(_three(np.round(self.mean, _DECIMALS)), _three(np.round(self.std, _DECIMALS)))


@dataclass(frozen=True)
class Macenko(StainColours):
    """Two stains and their maximum concentrations (Macenko et al. 2009, ISBI, p. 1107).

    Colour that is a mixture of neither is lost.
    """

    stains: tuple[Three, Three]
    """Optical density in red, green, blue of haematoxylin, then of eosin; unit vectors."""
    concentrations: tuple[float, float]
    """99th percentile of each stain's concentration, in optical density (log10)."""

    @classmethod
    def fit(cls, images: Image) -> Macenko:
        """Estimate the stains of `images`, uint8 (N, H, W, 3). For a reference: training patches, never test patches.

        Raises
        ------
        RequestError
            If they hold too little tissue, or one stain only.
        """
        density = _tissue_density(images)
        _check_tissue(len(density), len(images))
        _, vectors = np.linalg.eigh(np.cov(density.T))
        plane = vectors[:, :0:-1] * np.sign(vectors[:, :0:-1].sum(axis=0))  # the two directions of most variance
        angles = np.arctan2(*(density @ plane).T[::-1])
        ends = np.percentile(angles, (_EXTREME, 100 - _EXTREME))
        found = np.stack([plane @ (np.cos(angle), np.sin(angle)) for angle in ends])
        stains = found[np.argsort(-found[:, 0])]  # haematoxylin absorbs more red than eosin does
        highest = np.percentile(_concentrations(density, stains), 100 - _EXTREME, axis=0)
        if np.linalg.cond(stains) > _MAX_CONDITION or not highest.all():
            raise RequestError(f"stain: one stain only in {len(images)} patches; Macenko's method needs two.")
        return cls((_three(stains[0]), _three(stains[1])), (float(highest[0]), float(highest[1])))

    def recolour(self, pixels: Image, own: StainColours) -> Image:
        """Separate the stains of `own`, scale their concentrations, and compose them with these stains."""
        assert isinstance(own, Macenko)
        density = _density(pixels)
        scale = np.array(self.concentrations) / np.array(own.concentrations)
        amounts = _concentrations(density, np.array(own.stains)) * scale
        rgb = np.rint(256 * 10 ** -(amounts @ np.array(self.stains)) - 1).clip(0, 255).astype(np.uint8)
        return np.where(density.mean(axis=-1, keepdims=True) < MIN_DENSITY, pixels, rgb)

    def record(self) -> dict[str, Any]:
        """What describes this stain, JSON-ready."""
        values = {"stains": [list(stain) for stain in self.stains], "concentrations": list(self.concentrations)}
        return {"method": "Macenko", "min_density": MIN_DENSITY} | values

    def rounded(self) -> Macenko:
        """The same with rounded numbers."""
        haematoxylin, eosin = np.round(self.stains, _DECIMALS)
        highest = np.round(self.concentrations, _DECIMALS)
        return Macenko((_three(haematoxylin), _three(eosin)), (float(highest[0]), float(highest[1])))


MACENKO_REFERENCE = Macenko(((0.5626, 0.7201, 0.4062), (0.2159, 0.8012, 0.5581)), (0.855777, 0.447671))
"""The customary reference for the method of Macenko et al. 2009: stain matrix and maximum concentrations.

Published with M. Veta's implementation (github.com/mitkovetta/staining-normalization) and used unchanged by torchstain
and others. They give the concentrations as 1.9705 and 1.0308 in natural logarithms; here they are divided by ln 10.
"""

_METHODS: dict[str, type[StainColours]] = {"macenko": Macenko, "reinhard": Reinhard}


@dataclass(frozen=True)
class StainNormalisation:
    """Brings slides to the stain of one reference. Picklable; equal references have equal fingerprints."""

    reference: StainColours

    def fingerprint(self) -> dict[str, Any]:
        """Everything that the result depends on apart from the slide, JSON-ready: method, constants, reference.

        >>> parse_stain("macenko").fingerprint()["method"]
        'Macenko'
        """
        return {"revision": REVISION, **self.reference.record()}

    def fit(self, sample: Image) -> FittedStain:
        """Estimate the stain of one slide.

        Parameters
        ----------
        sample : uint8 (N, H, W, 3)
            RGB of readable tissue patches of the slide, the same ones each time. N may be 0.

        Returns
        -------
        FittedStain
            To be called with patches. Where the sample holds too little tissue, or one stain only, it changes nothing
            and its `reason` says so.
        """
        try:
            return FittedStain(self.reference, self.reference.fit(sample))
        except RequestError as error:
            return FittedStain(self.reference, None, str(error).removeprefix("stain: ").removesuffix("."))


@dataclass(frozen=True)
class FittedStain:
    """Stain normalisation of one slide: called with patches, uint8 (B, H, W, 3), it returns as many. Picklable.

    A patch comes out the same in any batch.
    """

    reference: StainColours
    own: StainColours | None
    """Stain of the slide; None where it could not be estimated."""
    reason: str | None = None
    """Why patches are not changed; None where they are."""

    def __call__(self, images: Image, readable: npt.NDArray[np.bool_] | None = None) -> Image:
        """The patches with the stain of the reference.

        Parameters
        ----------
        images : uint8 (B, H, W, 3)
            RGB. They are not changed in place.
        readable : bool (B,), optional
            False where a patch could not be read: it is returned as it is. Without it, patches whose pixels are all 0
            count as unreadable.
        """
        if self.own is None:
            return images
        changed = np.array([image.any() for image in images], dtype=bool) if readable is None else readable
        result = images.copy()
        for row in np.flatnonzero(changed):
            self._table.recolour(images[row], into=result[row])
        return result

    def record(self) -> dict[str, Any]:
        """For the results of the slide, JSON-ready: the slide's own stain, or why it was not normalised."""
        return {"reason": self.reason} if self.own is None else {"slide": self.own.record()}

    @cached_property
    def _table(self) -> _ColourTable:
        own = self.own
        assert own is not None
        return _ColourTable(lambda pixels: self.reference.recolour(pixels, own))

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_table"}


def parse_stain(spec: str) -> StainNormalisation:
    """Read the option `--stain METHOD[:REFERENCE]`.

    Parameters
    ----------
    spec
        `macenko`: to the published reference `MACENKO_REFERENCE`. `macenko:REFERENCE`, `reinhard:REFERENCE`: to the
        stain of REFERENCE, a picture of tissue, a slide file or a slide store. Of a slide, tissue patches are read; of
        a picture, all of it.

    Raises
    ------
    RequestError
        The method is not known; `reinhard` has no reference (none is published, and its result depends wholly on the
        choice); or the reference holds too little tissue.
    SlideError
        REFERENCE cannot be read as a picture or slide.

    >>> parse_stain("macenko").reference == MACENKO_REFERENCE
    True
    """
    method, _, reference = spec.partition(":")
    if method not in _METHODS:
        raise RequestError(f"stain {spec!r}: expected macenko, macenko:REFERENCE or reinhard:REFERENCE")
    if reference:
        return StainNormalisation(_fit_reference(_METHODS[method], reference))
    if method == "reinhard":
        raise RequestError(
            "stain 'reinhard': needs a reference, as none is published for this method. Write reinhard:REFERENCE, with "
            "a picture or slide of well-stained tissue such as the model was trained on; or use macenko."
        )
    return StainNormalisation(MACENKO_REFERENCE)


def _fit_reference(method: type[StainColours], path: str | os.PathLike[str]) -> StainColours:
    from wsikit.slides.registry import open_slide

    with open_slide(path) as slide:
        images = slide.thumbnail(_PICTURE_PX)[None] if slide.info.kind == "plain" else _tissue_patches(slide)
    try:
        return method.fit(images).rounded()
    except RequestError as error:
        reason = str(error).removeprefix("stain: ").removesuffix(".")
        raise RequestError(f"stain reference {path}: {reason}. Choose a picture or slide with more tissue.") from error


def _tissue_patches(slide: Slide) -> Image:
    """uint8 (N, P, P, 3), up to `REFERENCE_PATCHES` readable patches, evenly spread over the tissue."""
    from wsikit.geometry import PatchGrid, coverage
    from wsikit.tiling.stream import read_patches
    from wsikit.tissue.mask import tissue_mask

    mask = tissue_mask(slide)
    if mask.stain == "fluorescence":
        raise RequestError(f"stain reference {slide.path}: a fluorescence slide. Choose a brightfield one.")
    grid = PatchGrid(slide.dimensions, slide.mpp, _REFERENCE_PX, max(_REFERENCE_MPP, *slide.mpp))
    coords = grid.all_coords()
    coords = coords[coverage(mask.mask, mask.downsample, coords, grid.side) >= _REFERENCE_TISSUE]
    chosen = np.unique(np.linspace(0, len(coords) - 1, min(REFERENCE_PATCHES, len(coords))).astype(np.int64))
    batch = read_patches(slide, grid, coords[chosen])
    return batch.images[batch.readable]


class _ColourTable:
    """A function of single colours, computed once for each block of 16 × 16 × 16 colours that occurs."""

    def __init__(self, function: Callable[[Image], Image]) -> None:
        self._function = function
        self._known = np.zeros(_N_BLOCKS, dtype=bool)
        self._rgb = np.empty((_N_BLOCKS, len(_IN_BLOCK)), dtype=np.uint32)  # memory is taken as blocks are written

    def recolour(self, image: Image, *, into: Image) -> None:
        """Write the function of each pixel of `image`, uint8 (H, W, 3), into `into`."""
        code = _CODES[0].take(image[..., 0])
        code |= _CODES[1].take(image[..., 1])
        code |= _CODES[2].take(image[..., 2])
        known = self._known.take(code >> 12)
        if not known.all():
            for block in np.unique(code[~known] >> 12):
                self._fill(int(block))
        into[:] = self._rgb.reshape(-1).take(code).view(np.uint8).reshape(*image.shape[:2], 4)[..., :3]

    def _fill(self, block: int) -> None:
        corner = np.array((block >> 8, block >> 4 & 15, block & 15)) * 16
        packed = np.zeros((len(_IN_BLOCK), 4), dtype=np.uint8)
        packed[:, :3] = self._function((corner + _IN_BLOCK).astype(np.uint8))
        self._rgb[block] = packed.view(np.uint32)[:, 0]
        self._known[block] = True  # last: another thread may then read it


_N_BLOCKS = 16**3
_IN_BLOCK = np.indices((16, 16, 16)).reshape(3, -1).T
_VALUES = np.arange(256, dtype=np.uint32)
# a colour's place in the table: the upper four bits of red, green and blue, which are its block, then the lower four
_CODES = tuple((_VALUES >> 4) << 20 - 4 * channel | (_VALUES & 15) << 8 - 4 * channel for channel in range(3))


def _density(image: Image) -> npt.NDArray[np.float64]:
    """(…, 3) optical density, log10, 0 for white."""
    density: npt.NDArray[np.float64] = -np.log10((image.astype(np.float64) + 1) / 256)
    return density


def _tissue_density(images: Image) -> npt.NDArray[np.float64]:
    """(n, 3) of the pixels that are not glass, `_MAX_PIXELS` of all at most."""
    pixels = images.reshape(-1, 3)
    density = _density(pixels[:: -(-len(pixels) // _MAX_PIXELS) or 1])
    tissue: npt.NDArray[np.bool_] = density.mean(axis=1) >= MIN_DENSITY
    return density[tissue]


def _concentrations(density: npt.NDArray[np.float64], stains: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(…, 2) concentration of each stain by least squares, not negative."""
    amounts: npt.NDArray[np.float64] = density @ np.linalg.pinv(stains)
    return np.maximum(amounts, 0.0)


def _check_tissue(n_pixels: int, n_patches: int) -> None:
    if n_pixels < MIN_PIXELS:
        raise RequestError(f"stain: {n_pixels} pixels of tissue in {n_patches} patches; {MIN_PIXELS} are needed.")


def _lab(image: Image) -> npt.NDArray[np.float64]:
    """(…, 3) CIELAB"""
    from skimage.color import rgb2lab

    return np.asarray(rgb2lab(image), dtype=np.float64)


def _three(values: npt.NDArray[np.float64]) -> Three:
    return (float(values[0]), float(values[1]), float(values[2]))
