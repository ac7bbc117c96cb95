"""Nuclei of drawn scenes, whose number and size are known in closed form, and of outlined ones."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from wsikit.captions.nuclei import find_nuclei
from wsikit.captions.pixels import densities, shrink

SCALES = (0.25, 0.5, 1.0)


def nuclei_of(image, mpp):
    small, small_mpp = shrink(image, mpp, finest_mpp=0.5)
    return find_nuclei(densities(small, small_mpp))


@pytest.mark.parametrize("mpp", [*SCALES, 0.3, 0.688, 1.5])
def test_every_drawn_nucleus_is_counted_once(draw_nuclei, mpp):
    assert len(nuclei_of(draw_nuclei(mpp), mpp)) == 36


@pytest.mark.parametrize("mpp", SCALES)
@pytest.mark.parametrize("diameter_um", [6.0, 8.0, 12.0])
def test_the_area_of_a_drawn_nucleus_is_found_within_a_seventh(draw_nuclei, mpp, diameter_um):
    found = nuclei_of(draw_nuclei(mpp, diameter_um=diameter_um), mpp)
    assert np.median(found.diameter_um) == pytest.approx(diameter_um, rel=0.15)


@pytest.mark.parametrize("aspect", [1.0, 0.7, 0.4])
def test_the_axes_of_a_drawn_nucleus_are_found(draw_nuclei, aspect):
    found = nuclei_of(draw_nuclei(0.5, aspect=aspect), 0.5)
    assert np.median(found.aspect) == pytest.approx(aspect, abs=0.06)


def test_touching_nuclei_are_parted(draw_nuclei):
    """Discs of 8 µm whose centres are 8 µm apart touch all round."""
    image = draw_nuclei(0.5, spacing_um=8.0, aspect=1.0)
    assert len(nuclei_of(image, 0.5)) == pytest.approx(14 * 14, rel=0.05)


def test_a_paler_stain_changes_no_count(draw_nuclei):
    for darkness in (0.35, 0.6, 1.0, 1.8):
        assert len(nuclei_of(draw_nuclei(0.5, darkness=darkness, background=0.3 * darkness), 0.5)) == 36


def test_even_pink_holds_no_nucleus(stain):
    rng = np.random.default_rng(0)
    eosin = 0.4 + 0.02 * rng.standard_normal((224, 224))
    assert len(nuclei_of(stain(np.zeros((224, 224)), eosin), 0.5)) == 0


def test_a_nucleus_on_the_edge_counts_half(draw_nuclei):
    whole = draw_nuclei(0.5)
    halves = nuclei_of(whole[:, : whole.shape[1] // 2 - 18], 0.5), nuclei_of(whole[:, whole.shape[1] // 2 - 18 :], 0.5)
    assert any(half.cut.any() for half in halves)
    assert sum(half.number for half in halves) == pytest.approx(36, abs=0.5)


@pytest.fixture(scope="module")
def benchmark_module():
    path = Path(__file__).parents[2] / "benchmarks" / "captions.py"
    spec = importlib.util.spec_from_file_location("benchmarks_captions", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_counts_agree_with_outlines_that_nothing_was_tuned_on(benchmark_module, data_dir):
    """Four held-out images at 0.5 µm/px; measured F1 0.84 and 0.86, plain Otsu 0.76 and 0.81."""
    images = benchmark_module.read_outlined(data_dir / "nuclei" / "monuseg.zip")
    held_out = [image.halved() for image in images if image.name not in benchmark_module.TUNED]
    assert len(held_out) == 4
    ours = benchmark_module.summary([benchmark_module.score_image(image, benchmark_module.ours) for image in held_out])
    floor = benchmark_module.summary(
        [benchmark_module.score_image(image, benchmark_module.plain_otsu) for image in held_out]
    )
    assert ours["f1_3um"] > max(0.80, floor["f1_3um"] + 0.04)
    assert ours["f1_6um"] > 0.83
    assert ours["abs_count_error"] < 0.18
    assert ours["abs_diameter_error"] < 0.15
