"""What captions must not say: each fact on its rivals, drawn and real, and that it is still said of what it is."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage as ndi

from wsikit.captions import FACTS, load_captioner
from wsikit.captions.evidence import leave_out_unsure

CAPTIONER = load_captioner()
INKS = {"blue": (20, 60, 200), "green": (30, 130, 110), "black": (40, 40, 44), "violet": (40, 50, 150)}
DENSE_RED = (220, 15, 30)


def facts_of(image, mpp=0.5):
    return CAPTIONER.caption(image[None], mpp=mpp)[0].facts


def said(image, name, mpp=0.5):
    facts = facts_of(image, mpp)
    return name in facts and FACTS[name].grade(facts[name]) != "absent"


def zipped(path, wanted):
    """Images of a zip whose names hold `wanted`, by name."""
    with zipfile.ZipFile(path) as archive:
        names = sorted(name for name in archive.namelist() if wanted in name)
        return [np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("RGB")) for name in names]


@pytest.fixture(scope="module")
def skin(data_dir):
    """Patches of CMU-1-Small-Region by their left upper corner."""
    from wsikit.slides import open_slide

    with open_slide(data_dir / "slides" / "CMU-1-Small-Region.svs") as slide:

        def cut(x, y):
            return slide.read_region(x, y, 224, 224, level=0)

        yield cut


def under_ink(image, rgb, share=0.5):
    """A patch whose right part lies under a stroke of ink: densities of tissue and film add up."""
    width = image.shape[1]
    film = 1 / (1 + np.exp(-(np.arange(width) - (1 - share) * width) / 3))
    density = -np.log((np.array(rgb) + 1) / 244)
    seen = (image + 1.0) * np.exp(-film[None, :, None] * density) - 1
    return np.clip(np.rint(seen), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("ink", INKS)
def test_ink_over_cells_is_pen(draw_nuclei, ink):
    image = under_ink(draw_nuclei(0.5), INKS[ink])
    assert facts_of(image)["pen_share"] == pytest.approx(0.5, abs=0.12)
    assert "pen " in CAPTIONER.caption(image[None], mpp=0.5)[0].text


@pytest.mark.parametrize("ink", [*INKS.values(), DENSE_RED], ids=[*INKS, "dense red"])
def test_ink_over_real_tissue_is_pen_and_the_tissue_alone_is_not(data_dir, ink):
    for image in zipped(data_dir / "patches" / "nct_crc7.zip", "_10")[::12]:
        assert not said(image, "pen_share")
        assert said(under_ink(image, ink), "pen_share")


def test_smooth_pink_that_is_as_dense_in_blue_as_bone_is_no_pen(stain):
    lines = 0.02 * np.sin(np.mgrid[:224, :224][0] / 3.0)
    density = (0.5 + lines + 0.004 * np.random.default_rng(0).standard_normal((224, 224)))[..., None]
    bone = np.rint(245 * 10.0 ** -(density * np.array([0.14, 1.0, 0.78]))).astype(np.uint8)
    assert facts_of(bone)["pen_share"] == 0


def test_real_bone_is_neither_pen_nor_spindle_stroma(data_dir):
    for name in ("Case-3-A17-7799", "P9-B12-30770", "P9-B7-22066", "P9-B12-15791"):
        (bone,) = zipped(data_dir / "patches" / "osteosarcoma3.zip", f"Non-Tumor___{name}")
        facts = facts_of(bone[:512, :512], 1.0)
        assert facts["pen_share"] == facts["spindle_share"] == 0


def test_green_granules_between_fibres_are_pen_and_no_nuclei(skin):
    facts = facts_of(skin(1568, 1792), 0.499)
    assert FACTS["pen_share"].grade(facts["pen_share"]) == "moderate"
    drawn = np.full((224, 224, 3), 243, np.uint8)
    drawn[40:] = (230, 170, 200)
    drawn[60:200:12, 20:200:12] = drawn[61:201:12, 20:200:12] = drawn[60:200:12, 21:201:12] = (10, 120, 110)
    drawn[61:201:12, 21:201:12] = drawn[62:202:12, 21:201:12] = drawn[61:201:12, 22:202:12] = (10, 120, 110)
    facts = facts_of(drawn)
    assert facts["pen_share"] > 0.2
    assert facts["nuclei"] == 0


def test_glass_at_the_edge_with_shreds_in_it_is_not_fat(stain):
    y, x = np.mgrid[:224, :224]
    front = ndi.gaussian_filter(np.random.default_rng(2).standard_normal(224), 4) * 60 + 150
    tissue = (y > front) | (np.hypot(y - 90, x - 60) < 8)
    tissue |= (np.abs(y - 110 + 0.2 * x) < 3) & (x > 40) & (x < 150)  # a shred that nearly reaches the tissue
    facts = facts_of(stain(np.zeros((224, 224)), 0.5 * tissue))
    assert facts["blank_share"] > 0.4
    assert facts["fat_share"] == 0


def test_real_glass_is_not_fat_and_real_fat_is(skin, data_dir):
    for x, y in ((1120, 0), (1344, 224), (0, 1120), (1792, 1120), (1120, 1344), (1568, 1568), (448, 2464)):
        assert not said(skin(x, y), "fat_share", 0.499)
    fat = zipped(data_dir / "patches" / "nct_crc7.zip", "ADI___")
    assert sum(said(image, "fat_share") for image in fat) >= 8


def _ring(stain, core, aspect):
    """Ten nuclei of minor over major axis `aspect`, the major one radial, around a core of radial stripes."""
    y, x = (np.mgrid[:224, :224] + 0.5) * 0.5 - 56
    radius, turn = np.hypot(y, x), np.arctan2(y, x)
    stains = {"haematoxylin": np.zeros((224, 224)), "eosin": np.full((224, 224), 0.4)}
    stains["eosin"] += 0.03 * np.random.default_rng(6).standard_normal((224, 224))
    inside = radius < 12
    stains["eosin"][inside] = 0
    stains[core][inside] = 0.4 + 0.2 * np.sin(24 * turn)[inside]
    for middle in (np.arange(10) + 0.3) * 2 * np.pi / 10:
        along = y * np.sin(middle) + x * np.cos(middle) - 16.5
        across = x * np.sin(middle) - y * np.cos(middle)
        distance = np.hypot(along * np.sqrt(aspect), across / np.sqrt(aspect))
        nucleus = np.clip((3.5 - distance) / 0.5 + 0.5, 0, 1)
        stains["haematoxylin"] = np.maximum(stains["haematoxylin"], nucleus)
        stains["eosin"] *= 1 - nucleus
    return stain(stains["haematoxylin"], stains["eosin"])


def test_a_ring_is_a_rosette_only_with_a_pink_core_and_round_nuclei(stain):
    assert facts_of(_ring(stain, "eosin", 1.0))["rosette_like"] == 1
    assert facts_of(_ring(stain, "haematoxylin", 1.0))["rosette_like"] == 0  # mucin is bluish
    assert not facts_of(_ring(stain, "eosin", 0.4)).get("rosette_like", 0)  # columnar epithelium


def test_glands_muscle_and_mucus_have_no_rosettes_ganglion_cells_or_neuropil(data_dir):
    for image in zipped(data_dir / "patches" / "nct_crc7.zip", ".jpg")[::2]:
        for name in ("rosette_like", "ganglion_like_share", "fibrillary_share"):
            assert not said(image, name)


def test_keratin_is_not_counted_as_nuclei_and_epidermis_is(skin):
    for x, y in ((1344, 1344), (1344, 896), (1568, 1344), (1344, 1120)):
        assert not {"nuclei", "nuclei_per_mm2", "nuclear_diameter_um"} & set(facts_of(skin(x, y), 0.499))
    assert facts_of(skin(1120, 896), 0.499)["nuclei"] > 40


@pytest.mark.parametrize(
    ("elongated", "fibrils", "ganglion", "left"),
    [
        (0.05, 0.3, 0.04, {"fibrillary_share", "rosette_like", "ganglion_like_share"}),
        (0.4, 0.3, 0.04, set()),
        (0.05, 0.01, 0.04, {"fibrillary_share", "rosette_like"}),
        (0.05, 0.01, 0.2, {"fibrillary_share", "rosette_like", "ganglion_like_share"}),
        (0.4, 0.01, 0.0, {"fibrillary_share", "ganglion_like_share"}),
    ],
)
def test_fibrils_rosettes_and_ganglion_cells_need_further_evidence(elongated, fibrils, ganglion, left):
    facts = {"nuclei": 80.0, "elongated_nuclei_share": elongated, "fibrillary_share": fibrils, "rosette_like": 1.0}
    facts["ganglion_like_share"] = ganglion
    leave_out_unsure(facts)
    assert set(facts) - {"nuclei", "elongated_nuclei_share"} == left


def test_epithelium_is_not_spindle_stroma_and_muscle_is(data_dir, skin):
    assert sum(said(image, "spindle_share") for image in zipped(data_dir / "patches" / "nct_crc7.zip", "MUS___")) == 10
    for x, y in ((1120, 1792), (1344, 896), (1120, 896)):  # epidermis and keratin; both run in parallel
        assert not said(skin(x, y), "spindle_share", 0.499)
