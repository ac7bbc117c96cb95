"""Words as intervals: the measured number lies in the interval of the word that was written for it."""

from __future__ import annotations

import numpy as np
import pytest

from wsikit.captions.lexicon import phrase
from wsikit.captions.parsed_facts import facts_of_text, facts_of_texts
from wsikit.facts import FACTS, TONE

MEASURED = {
    "nuclei_per_mm2": 4000.0,
    "nuclear_diameter_um": 9.0,
    "elongated_nuclei_share": 0.3,
    "nuclear_size_cv": 0.25,
    "nuclear_density": 0.3,
    "fibrillary_share": 0.25,
    "rosette_like": 2.0,
    "large_pale_nuclei_share": 0.01,
    "ganglion_like_share": 0.03,
    "spindle_share": 0.6,
    "blood_share": 0.2,
    "necrosis_share": 0.0,
    "fat_share": 0.4,
}
TONES = {name: FACTS[name].grades[3][0] - 1e-4 for name in TONE} | {"haematoxylin_share": 0.3, "eosin_share": 0.6}


@pytest.mark.parametrize(("facts", "mpp"), [(MEASURED, 0.5), (TONES, 4.0)])
def test_a_measured_number_lies_in_the_interval_of_its_word(facts: dict[str, float], mpp: float):
    found = facts_of_text(phrase(facts, mpp))
    assert found.keys() >= facts.keys()
    for name, value in facts.items():
        middle, half = found[name]
        assert middle - half <= value <= middle + half, name
        assert half > 0


def test_every_grade_of_every_fact_is_an_interval_that_holds_what_it_names():
    for name, fact in FACTS.items():
        if not fact.term:
            continue
        for (limit, word), below in zip(fact.grades, [0.0, *(limit for limit, _ in fact.grades)]):
            from wsikit.captions.parsed_facts import _interval

            low, high = _interval(name, word)
            assert 0 <= low < high < np.inf
            assert fact.grade((low + high) / 2) == word
            assert high == limit or limit == np.inf
            assert low in (below, 0.0) or below == 0.0


def test_an_amount_that_is_not_stated_excludes_absence_only():
    middle, half = facts_of_text("Necrosis present.")["necrosis_share"]
    assert (middle - half, middle + half) == pytest.approx((0.08, 1.0))


def test_texts_become_rows_and_what_is_not_stated_is_missing():
    values, widths = facts_of_texts(["No necrosis.", "", "Something else."], ("necrosis_share", "blood_share"))
    assert values.dtype == widths.dtype == np.float32
    np.testing.assert_allclose(values[0, 0], 0.04)
    assert np.isnan(values).tolist() == [[False, True], [True, True], [True, True]]
    assert (widths[np.isnan(values)] == 0).all()
