"""One number per patch by name: values, units, limits, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from wsikit.errors import RequestError, StoreError
from wsikit.exporters.quantity import known_quantities, read_quantity


def test_a_column_an_entry_and_their_units(store):
    table = store.patches()
    gate = read_quantity(table, "gate")
    assert gate.limits == (0, 1)
    assert np.array_equal(gate.values, table.read("gate").astype(float), equal_nan=True)
    nuclei = read_quantity(table, "caption_facts:nuclei_per_mm2")
    assert (nuclei.title, nuclei.unit, nuclei.limits) == ("Nuclei per mm²", "per mm²", None)
    assert np.array_equal(nuclei.values, table.read("caption_facts")[:, 0].astype(float))
    second = read_quantity(table, "probability:PD")
    assert np.array_equal(second.values, table.read("probability")[:, 1].astype(float), equal_nan=True)
    assert not nuclei.of_model
    assert gate.of_model


def test_entropy_and_margin_by_their_closed_forms(store):
    table = store.patches()
    probs = table.read("probability")[1:].astype(float)
    entropy, margin = read_quantity(table, "entropy"), read_quantity(table, "margin")
    np.testing.assert_allclose(entropy.values[1:], -(probs * np.log2(probs)).sum(axis=1), atol=1e-9)
    top = np.sort(probs, axis=1)
    np.testing.assert_allclose(margin.values[1:], top[:, -1] - top[:, -2])
    assert np.isnan(entropy.values[0])
    assert np.isnan(margin.values[0])
    assert entropy.limits == (0, 2)
    assert entropy.unit == "bit"


@pytest.mark.parametrize(
    ("name", "error", "said"),
    [
        ("nothing", StoreError, "gate"),
        ("probability", RequestError, "probability:UD"),
        ("probability:XX", RequestError, "probability:UD"),
        ("gate:UD", RequestError, "one value"),
        ("caption", RequestError, "text"),
        ("coords", StoreError, "no column"),
    ],
)
def test_what_cannot_be_shown_says_what_can(store, name, error, said):
    with pytest.raises(error, match=said):
        read_quantity(store.patches(), name)


def test_all_that_is_listed_can_be_read(store):
    table = store.patches()
    names = known_quantities(table)
    assert {"gate", "tissue", "probability:PD", "entropy"} <= set(names)
    assert not any("features" in name or name == "caption" for name in names)
    for name in names:
        assert read_quantity(table, name).values.shape == (len(table),)
