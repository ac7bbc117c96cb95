"""Fields of 1 mm with small patches in them: a class that needs the pixels of a patch and a count over its field.

The rule is that of the INPC for patients below 18 months (Shimada 1999): favourable are tumours with neuropil whose
mitosis-karyorrhexis index (MKI) is low or intermediate; a high MKI is unfavourable, and so is a lack of neuropil. A
patch shows whether there is neuropil. The MKI is counted over about 5,000 cells; a patch of some tens of µm has a few.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from wsikit.errors import RequestError
from wsikit.phantom.facts import Facts, survey, tally
from wsikit.phantom.patches import through_jpeg
from wsikit.phantom.recipe import Recipe, draw_recipe
from wsikit.phantom.render import Rgb, Scene

PATCH_PX, MPP = 112, 0.5
"""Side of a patch, and µm per pixel: 56 µm."""
PER_SIDE = 18
"""Patches along one side of a field: it is then 1,008 µm wide."""
PICTURE_PX, PICTURE_MPP = 448, 1.0
"""Largest side and µm per pixel of the picture of the field's middle; fibrils of neuropil are not visible at it."""
CLASSES = ("favourable", "unfavourable")

MKI_LIMITS = (0.02, 0.04)
"""Below the first the MKI is low, from the second on high (INPC: 100 and 200 of 5,000 cells)."""
MKI_GRADES = ("low", "intermediate", "high")
WITHOUT, WITH = 0.005, 0.10
"""Up to the first area fraction a patch is without neuropil, from the second on with it; others are not drawn."""
_MIN_TUMOUR = 0.7
_MKI_RANGE = (0.03, 0.18)
"""Of the cells of sheets; rings of rosettes have none, so that the index of a field is about half of it."""
_UD_SHARE = (0.4, 0.6)


@dataclass(frozen=True)
class TwoScales:
    """One slide: a field, and N patches in it."""

    seed: int
    images: Rgb
    """uint8 (N, PATCH_PX, PATCH_PX, 3) at `MPP`, decoded from JPEG."""
    coords: npt.NDArray[np.int64]
    """(N, 2), x and y of the top-left corners in the field, px at `MPP`."""
    facts: Facts
    """Planted facts of the N patches."""
    rows: npt.NDArray[np.int64]
    """(N,), number of each patch in the field, row by row."""
    whole: Facts
    """Planted facts of all patches of the field."""
    centres_um: npt.NDArray[np.float64]
    """(M, 2), x and y of the centres of all M patches of the field, µm."""
    cells: int
    """Neuroblastic cells of the field, as planted."""
    events: int
    """Mitoses and karyorrhectic cells among them."""
    per_side: int
    """Side of the field in patches."""

    @property
    def picture(self) -> Rgb:
        """uint8 (F, F, 3): the middle of the field at `PICTURE_MPP`, rendered when asked for."""
        return field_picture(self.seed, self.per_side)

    @property
    def mki(self) -> float:
        """Mitosis-karyorrhexis index of the field."""
        return self.events / max(1, self.cells)

    @property
    def neuropil(self) -> npt.NDArray[np.bool_]:
        """(N,), whether each patch has neuropil."""
        return self.facts.fraction("neuropil") >= WITH

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """(N,), index into `CLASSES`."""
        return np.where(self.neuropil & (mki_grade(self.mki) != MKI_GRADES[-1]), 0, 1)

    @property
    def patch_events(self) -> npt.NDArray[np.int32]:
        """(N,), mitoses and karyorrhectic cells in each patch, as planted."""
        return self.facts.count("mitosis") + self.facts.count("karyorrhexis")


def mki_grade(mki: float) -> str:
    """Grade of an index.

    >>> mki_grade(0.019), mki_grade(0.03), mki_grade(0.04)
    ('low', 'intermediate', 'high')
    """
    return MKI_GRADES[int(np.searchsorted(MKI_LIMITS, mki, side="right"))]


def two_scales(seed: int, patches: int, *, per_side: int = PER_SIDE, quality: int = 85) -> TwoScales:
    """Make one slide of tumour: a field, and `patches` patches of it, half of them with neuropil as far as there are.

    The same seed gives the same slide. Staining, cellularity and chromatin differ between slides and are independent of
    the MKI and of neuropil.

    Parameters
    ----------
    seed
        Any integer ≥ 0: a slide.
    patches
        Number of patches, 1 or more; fewer are drawn if the field has not enough that are clearly with or without
        neuropil.
    per_side
        Side of the field in patches, 2 or more.
    quality
        JPEG quality (4:2:0) of the patches, as in slides.

    Raises
    ------
    RequestError
        If `patches` is below 1 or `per_side` below 2.
    """
    if patches < 1 or per_side < 2:
        raise RequestError(
            f"{patches} patches of a field of {per_side} patches a side: ask for at least 1, and 2 a side"
        )
    recipe = _recipe(seed, per_side)
    scene = Scene(recipe, MPP)
    side = per_side * PATCH_PX
    box = (0, 0, side, side)
    plot = scene.plot(box)
    counted = tally(survey(scene, plot, box, None), MPP, (float(PATCH_PX), float(PATCH_PX)), per_side)
    points = counted.points / counted.points.sum(axis=1, keepdims=True)
    everything = Facts(
        points.astype(np.float32),
        counted.counts.astype(np.int32),
        (counted.artefacts / counted.points.sum(axis=1, keepdims=True)).astype(np.float32),
    )
    rows = _drawn(everything, patches, np.random.default_rng([seed, 1109]))
    coords = np.stack([rows % per_side, rows // per_side], axis=1) * PATCH_PX
    images = [through_jpeg(scene.render((int(x), int(y), PATCH_PX, PATCH_PX), plot), quality) for x, y in coords]
    every = np.arange(per_side**2)
    events = int(everything.count("mitosis").sum() + everything.count("karyorrhexis").sum())
    return TwoScales(
        seed=seed,
        images=np.stack(images) if images else np.zeros((0, PATCH_PX, PATCH_PX, 3), np.uint8),
        coords=coords.astype(np.int64),
        facts=Facts(everything.fractions[rows], everything.counts[rows], everything.artefacts[rows]),
        rows=rows,
        whole=everything,
        centres_um=(np.stack([every % per_side, every // per_side], axis=1) + np.float64(0.5)) * (PATCH_PX * MPP),
        cells=int(everything.n_neuroblastic.sum()),
        events=events,
        per_side=per_side,
    )


def field_picture(seed: int, per_side: int = PER_SIDE, *, quality: int = 85) -> Rgb:
    """The middle of the field of a slide, uint8 (F, F, 3) at `PICTURE_MPP`, F at most `PICTURE_PX`."""
    field_px = round(per_side * PATCH_PX * MPP / PICTURE_MPP)
    picture_px = min(PICTURE_PX, field_px)
    corner = (field_px - picture_px) // 2
    scene = Scene(_recipe(seed, per_side), PICTURE_MPP)
    return through_jpeg(scene.render((corner, corner, picture_px, picture_px)), quality)


def _recipe(seed: int, per_side: int) -> Recipe:
    """A slide whose tumour has neuropil in about half of its area, and an MKI of any grade."""
    side_um = per_side * PATCH_PX * MPP
    drawn = draw_recipe(seed, "PD", (side_um, side_um), tissue_fraction=1.0, artefacts=False)
    rng = np.random.default_rng([seed, 1108])
    low, high = np.log(_MKI_RANGE)
    return replace(
        drawn,
        mki=float(np.exp(rng.uniform(low, high))),
        ud_share=float(rng.uniform(*_UD_SHARE)),
        d_share=0.0,
    )


def _drawn(facts: Facts, n: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Rows of up to `n` patches of tumour, half with and half without neuropil as far as there are, in order."""
    tumour = facts.tumour >= _MIN_TUMOUR
    neuropil = facts.fraction("neuropil")
    having, lacking = (
        rng.permutation(np.flatnonzero(tumour & chosen)) for chosen in (neuropil >= WITH, neuropil <= WITHOUT)
    )
    first = min(len(having), max(n // 2, n - len(lacking)))
    return np.sort(np.concatenate([having[:first], lacking[: n - first]])).astype(np.int64)
