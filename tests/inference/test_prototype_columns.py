"""The assignment to prototypes as a column that maps can show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from wsikit.errors import RequestError
from wsikit.exporters.quantity import read_quantity
from wsikit.geometry import PatchGrid
from wsikit.inference.prototype_columns import write_prototype_column
from wsikit.store.receipts import Receipt
from wsikit.store.table import PatchTable

FEATURES = Receipt("features", 1)


@pytest.fixture
def table(tmp_path: Path) -> PatchTable:
    grid = PatchGrid((700, 448), (0.5, 0.5), 224, 0.5, 0)
    coords = np.array([[0, 0], [224, 0], [448, 0], [0, 224]], dtype=np.int64)
    return PatchTable.create(tmp_path / "patches" / grid.name, grid, coords, Receipt("tile", 1))


def test_each_prototype_is_a_quantity_that_maps_show(table: PatchTable) -> None:
    assignment = np.array([[0.9, 0.1], [0.2, 0.8], [np.nan, np.nan], [0.5, 0.5]], np.float32)
    name = write_prototype_column(table, "umeml", assignment, model="abc", features=FEATURES)
    assert name == "prototypes_umeml"
    second = read_quantity(table, "prototypes_umeml:prototype 2")
    np.testing.assert_allclose(second.values, assignment[:, 1])
    assert second.limits == (0.0, 1.0)


def test_an_equal_receipt_keeps_the_column_and_another_model_replaces_it(table: PatchTable) -> None:
    first, second = np.eye(2, dtype=np.float32)[[0, 1, 0, 1]], np.eye(2, dtype=np.float32)[[1, 0, 1, 0]]
    write_prototype_column(table, "umeml", first, model="abc", features=FEATURES)
    write_prototype_column(table, "umeml", second, model="abc", features=FEATURES)
    np.testing.assert_array_equal(table.read("prototypes_umeml"), first)
    write_prototype_column(table, "umeml", second, model="def", features=FEATURES)
    np.testing.assert_array_equal(table.read("prototypes_umeml"), second)


def test_an_assignment_of_another_number_of_patches_is_refused(table: PatchTable) -> None:
    with pytest.raises(RequestError, match=r"expected \(4, prototypes\)"):
        write_prototype_column(table, "umeml", np.ones((3, 2), np.float32), model="abc", features=FEATURES)
