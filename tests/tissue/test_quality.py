"""Focus, pen, glass and dark of patches: closed forms on drawn patches, known blur on real ones."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from scipy import ndimage as ndi

from wsikit.errors import RequestError
from wsikit.tissue.blocks import Blocks
from wsikit.tissue.brightfield import local_sd, optical_density
from wsikit.tissue.pen import find_ink
from wsikit.tissue.quality import QUALITY_NAMES, patch_quality
from wsikit.tissue.regions import dilate

Image8 = npt.NDArray[np.uint8]

# the calibration, repeated: ratio of coarse to fine gradient, and standard deviation of the blur, px
RATIO = (0.50, 0.60, 0.74, 0.83, 0.90, 0.97, 0.995, 1.0)
BLUR_PX = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


@pytest.fixture(scope="module")
def colon(data_dir: Path) -> Image8:
    """Real patches of colon, sharp, 224 px at 0.5 µm/px, without fat: uint8 (30, 224, 224, 3)."""
    with zipfile.ZipFile(data_dir / "patches" / "nct_crc7.zip") as archive:
        names = sorted(n for n in archive.namelist() if n.endswith(".jpg") and "ADI" not in n)[::2]
        return np.stack([np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("RGB")) for name in names])


def _blurred(images: Image8, sigma_um: float, mpp: float) -> Image8:
    sigma = sigma_um / mpp
    return np.stack([ndi.gaussian_filter(image, (sigma, sigma, 0)) for image in images])


@pytest.mark.parametrize("sigma_um", [1.0, 2.0, 3.0])
def test_blur_is_the_width_of_the_blur_in_quarters_of_4_um(colon: Image8, sigma_um: float) -> None:
    blur = patch_quality(_blurred(colon, sigma_um, 0.5), mpp=0.5)["blur"]
    assert np.median(blur) == pytest.approx(sigma_um / 4, rel=0.2)
    assert np.percentile(blur, 90) - np.percentile(blur, 10) < 0.45


def test_sharp_patches_are_sharp_and_lost_ones_are_lost(colon: Image8) -> None:
    assert np.percentile(patch_quality(colon, mpp=0.5)["blur"], 90) < 0.2
    assert patch_quality(_blurred(colon, 6.0, 0.5), mpp=0.5)["blur"].min() > 0.9


def test_blur_of_the_same_place_is_the_same_at_another_scale(colon: Image8) -> None:
    coarse = colon.reshape(len(colon), 112, 2, 112, 2, 3).mean((2, 4))
    for sigma_um in (1.5, 2.5):
        fine = patch_quality(_blurred(colon, sigma_um, 0.5), mpp=0.5)["blur"]
        same = patch_quality(_blurred(coarse, sigma_um, 1.0).round().astype(np.uint8), mpp=1.0)["blur"]
        np.testing.assert_allclose(np.median(same), np.median(fine), atol=0.06)


def test_camera_noise_is_not_mistaken_for_focus(colon: Image8) -> None:
    rng = np.random.default_rng(0)
    blurred = _blurred(colon, 2.0, 0.5)
    noisy = np.clip(blurred + rng.normal(0, 2, blurred.shape), 0, 255).astype(np.uint8)
    assert np.median(patch_quality(noisy, mpp=0.5)["blur"]) == pytest.approx(0.5, abs=0.1)


@pytest.fixture
def patches(canvas: Any) -> Image8:
    """Drawn patches of 224 px at 0.5 µm/px: glass, stain, half of each, blue pen, black, structureless pink."""
    whole, half = np.ones((224, 224), bool), np.zeros((224, 224), bool)
    half[:, :112] = True
    drawn = [canvas(224, 224, seed=seed) for seed in range(5)]
    drawn[1].stain(whole)
    drawn[2].stain(half)
    drawn[3].pen(whole, (45, 95, 190))
    drawn[4].od += 4.0
    images = [one.image() for one in drawn]
    images.append(np.full((224, 224, 3), (220, 150, 190), np.uint8))
    return np.stack(images)


def test_shares_of_glass_pen_and_dark_are_shares_of_the_area(patches: Image8) -> None:
    found = patch_quality(patches, mpp=0.5)
    np.testing.assert_allclose(found["blank"], [1, 0, 0.5, 0, 0, 0], atol=0.02)
    np.testing.assert_allclose(found["pen"], [0, 0, 0, 1, found["pen"][4], 0], atol=0.02)
    np.testing.assert_allclose(found["dark"], [0, 0, 0, 0, 1, 0], atol=0.02)


def test_an_empty_patch_is_not_blurred_but_one_that_lost_all_structure_is(patches: Image8) -> None:
    blur = patch_quality(patches, mpp=0.5)["blur"]
    assert blur[0] == 0
    assert blur[-1] == 1


def test_half_a_patch_of_pen_counts_half(canvas: Any) -> None:
    half = np.zeros((224, 224), bool)
    half[:, :112] = True
    drawn = canvas(224, 224)
    drawn.stain(np.ones((224, 224), bool))
    drawn.pen(half, (30, 130, 110))
    assert patch_quality(drawn.image()[None], mpp=0.5)["pen"] == pytest.approx(0.5, abs=0.08)


def test_focus_is_measured_in_fluorescence_of_one_colour(slides_dir: Path) -> None:
    from wsikit.slides import open_slide

    with open_slide(slides_dir / "test3-DAPI-2-387.ndpi") as slide:
        sharp = np.stack([slide.read_region(x, 3500, 224, 224, mpp=0.5) for x in (200, 800, 1400, 2000, 2600)])
    assert sharp[..., 1].max() < 40  # blue alone
    assert np.median(patch_quality(sharp, mpp=0.5)["blur"]) < 0.35
    assert np.median(patch_quality(_blurred(sharp, 3.0, 0.5), mpp=0.5)["blur"]) > 0.5


def test_a_patch_does_not_depend_on_its_batch(patches: Image8) -> None:
    together = patch_quality(patches, mpp=0.5)
    assert tuple(together) == QUALITY_NAMES
    for i in range(len(patches)):
        alone = patch_quality(patches[i : i + 1], mpp=0.5)
        assert {name: values[0] for name, values in alone.items()} == {n: v[i] for n, v in together.items()}


@pytest.mark.parametrize(("side", "mpp"), [(224, 0.25), (256, 0.5), (97, 1.0), (64, 4.0), (50, 8.0)])
def test_any_patch_size_and_scale_gives_shares(side: int, mpp: float) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, side, side, 3), dtype=np.uint8)
    for values in patch_quality(images, mpp=mpp).values():
        assert values.dtype == np.float32
        assert values.shape == (3,)
        assert ((values >= 0) & (values <= 1)).all()


def _plain_quality(image: Image8, mpp: float) -> dict[str, float]:
    """The definitions in floats, plane by plane, with SciPy's filters."""
    fine, fine_mpp = (
        _means(image.transpose(2, 0, 1).astype(float), max(1, round(1 / mpp))),
        mpp * max(1, round(1 / mpp)),
    )
    darkest, brightest = fine.min(axis=0), fine.max(axis=0)
    blank, dark = ((darkest >= 190) & (brightest - darkest <= 26)).mean(), (brightest <= 40).mean()
    strongest = fine[np.argmax(fine.var(axis=(1, 2)))]
    blurs = [_plain_blur(plane, blank + dark >= 0.5) for plane in (strongest, strongest.T)]
    rgb = np.rint(_means(fine, max(1, round(8 / fine_mpp)))).astype(np.uint8).transpose(1, 2, 0)
    od = np.maximum(optical_density(rgb, (243.0, 243.0, 243.0)), 0)
    if mpp <= 2:
        red, green, blue = ndi.minimum_filter(od, size=(1, 5, 5), mode="nearest")
        hue = ((red > 0.5) & (red > 1.2 * green) & (green < 2.2)) | (
            (red > 0.4) & (red > 0.7 * green) & (blue > 0.8 * green)
        )
        hue |= (red > 1.2) & (blue < 0.5 * red) & (red > 0.8 * green) & (green < 2.2)
        hue |= (green > 2.2) & (red < 0.3 * green) & (blue > 0.65 * green)
        pen = ndi.maximum_filter(hue, size=5, mode="constant").mean()
    else:
        ink = find_ink(od, local_sd((od[0] + od[1] + od[2]) / 3, 5))
        inked = (ink.hue > 0) & (ink.hue < 10) & ink.smooth
        pen = dilate(inked, 2, within=ink.hue > 0).mean()
    return {"blur": min(1.0, max(blurs) * fine_mpp / 4), "pen": pen, "blank": blank, "dark": dark}


def _means(planes: npt.NDArray[Any], k: int) -> npt.NDArray[Any]:
    height, width = planes.shape[1] // k, planes.shape[2] // k
    return planes[:, : height * k, : width * k].reshape(3, height, k, width, k).mean(axis=(2, 4))


def _plain_blur(plane: npt.NDArray[Any], empty: bool) -> float:
    energy = np.diff(plane, axis=0) ** 2
    height, width = (side // 8 for side in energy.shape)
    quiet = np.sort(energy[: height * 8, : width * 8].reshape(height, 8, width, 8).mean(axis=(1, 3)).ravel())
    noise = max(0.5, quiet[int(0.05 * quiet.size)])
    fine = energy.mean() - noise
    coarse = (((plane[5:] - plane[:-5]) / 5) ** 2).mean() - noise / 25
    if coarse < 0.15:
        return 0.0 if empty else np.inf
    return float(np.interp(np.sqrt(coarse / fine) if fine > coarse else 1.0, RATIO, BLUR_PX))


@pytest.mark.parametrize("mpp", [0.688, 0.5, 0.25, 1.4, 4.0])
def test_whole_numbers_give_what_floats_give(colon: Image8, patches: Image8, mpp: float) -> None:
    images = np.concatenate([colon[::4], patches, _blurred(colon[:3], 1.5, 0.5)])
    found = patch_quality(images, mpp=mpp)
    for index, image in enumerate(images):
        for name, value in _plain_quality(image, mpp).items():
            assert found[name][index] == pytest.approx(value, abs=2e-6), name


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5, 6, 8, 11, 12, 16, 17, 24])
def test_sums_over_blocks_are_exact(k: int) -> None:
    images = np.random.default_rng(1).integers(0, 256, (3, 50, 71, 3), dtype=np.uint8)
    images[0] = 255
    height, width = 50 // k, 71 // k
    truth = images[:, : height * k, : width * k].astype(np.int64).reshape(3, height, k, width, k, 3).sum(axis=(2, 4))
    np.testing.assert_array_equal(np.moveaxis(Blocks(images).sums(k), 0, 3), truth)
    blocks = Blocks(images)
    for part in (2, 3, 4):
        blocks.sums(part)  # larger ones are then made from these
    np.testing.assert_array_equal(np.moveaxis(blocks.sums(k), 0, 3), truth)
    np.testing.assert_array_equal(blocks.of([2, 0]).sums(k), blocks.sums(k)[:, [2, 0]])


def test_small_patches_measured_at_once_are_measured_by_themselves(patches: Image8) -> None:
    small = np.concatenate([patches[:, y : y + 50, x : x + 50] for y in (0, 90) for x in (0, 88, 170)] * 2)
    together = patch_quality(small, mpp=4.0)
    for i in range(len(small)):
        alone = patch_quality(small[i : i + 1], mpp=4.0)
        assert {name: values[0] for name, values in alone.items()} == {n: v[i] for n, v in together.items()}


def test_no_patches_give_empty_columns() -> None:
    found = patch_quality(np.zeros((0, 224, 224, 3), np.uint8), mpp=0.5)
    assert [values.shape for values in found.values()] == [(0,)] * len(QUALITY_NAMES)


def test_invalid_requests_are_refused() -> None:
    patch = np.zeros((1, 32, 32, 3), np.uint8)
    with pytest.raises(RequestError, match="positive"):
        patch_quality(patch, mpp=float("nan"))
    with pytest.raises(RequestError, match="uint8"):
        patch_quality(patch.astype(np.float32), mpp=0.5)
    with pytest.raises(RequestError, match="too small"):
        patch_quality(patch[:, :8, :8], mpp=0.5)
