"""The observer of synthetic patches: counts with their errors, and captions that are read as what was counted."""

from __future__ import annotations

import numpy as np
import pytest

from wsikit.captions import parse
from wsikit.captions.parsed_facts import facts_of_text
from wsikit.phantom.cells import CODE, OBJECT_KINDS
from wsikit.phantom.facts import Facts
from wsikit.phantom.fields import KINDS
from wsikit.phantom.observer import Observer, caption_of


def patches(n: int, cells: int, events: int) -> Facts:
    counts = np.zeros((n, len(OBJECT_KINDS)), np.int32)
    counts[:, CODE["neuroblast"]], counts[:, CODE["mitosis"]] = cells - events, events
    return Facts(np.zeros((n, len(KINDS)), np.float32), counts, np.zeros((n, 3), np.float32))


def test_an_observer_without_errors_counts_what_is_planted() -> None:
    exact = Observer(missed=0, mistaken=0, of_cells=0, of_slide=0)
    found = exact.count(patches(3, cells=50, events=2), 0.01, np.random.default_rng(0))
    np.testing.assert_allclose(found, [[5000, 200]] * 3)
    few = exact.count(patches(1, cells=4, events=1), 0.01, np.random.default_rng(0))
    assert few[0, 0] == 400
    assert np.isnan(few[0, 1])


def test_errors_of_patches_are_averaged_out_and_that_of_the_slide_is_not() -> None:
    facts = patches(4000, cells=100, events=4)
    of_patches = Observer(missed=0.25, mistaken=0.01, of_cells=0.1, of_slide=0)
    counted = of_patches.count(facts, 0.01, np.random.default_rng(0))[:, 1]
    assert counted.std() > 50
    wanted = 5000 * (4 * 0.75 + 96 * 0.01) / 100 * np.exp(0.1**2 / 2)  # the mean of 1 / counted cells
    assert counted.mean() == pytest.approx(wanted, rel=0.03)
    strict = Observer(missed=0.25, mistaken=0.01, of_cells=0.1, of_slide=0.3)
    means = [strict.count(facts, 0.01, np.random.default_rng(seed))[:, 1].mean() for seed in range(12)]
    assert 0.15 < np.std(np.log(means)) < 0.5


@pytest.mark.parametrize(("density", "index"), [(1500, 0), (4000, 60), (9000, 150), (9000, 700)])
def test_a_caption_is_parsed_to_the_grades_of_what_was_counted(density: float, index: float) -> None:
    caption = caption_of(np.array([density, index]))
    stated = facts_of_text(caption)
    assert set(stated) == {"nuclei_per_mm2", "mki_per_5000"}
    for name, value in (("nuclei_per_mm2", density), ("mki_per_5000", min(index, 290))):
        middle, half_width = stated[name]
        assert abs(value - middle) <= half_width + 1e-9, (name, caption)


def test_generated_words_on_mitoses_reach_the_numbers_as_an_interval_of_the_index() -> None:
    assert parse("Mitoses/karyorrhexis many.")["mitoses"] == "abundant"
    assert facts_of_text("Mitoses/karyorrhexis many.")["mki_per_5000"] == (250.0, 50.0)
    assert facts_of_text("No mitoses.")["mki_per_5000"] == (2.5, 2.5)
