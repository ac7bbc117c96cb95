"""A patient's prototypes go to the stores of the patient's slides."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from wsikit.errors import RequestError
from wsikit.slides.store import SlideStore
from wsikit.store.receipts import Receipt
from wsikit.store.table import ColumnSpec
from wsikit.tiling.tile import tile
from wsikit.training.cohort.bags import SlideBag
from wsikit.training.umeml.maps import write_prototype_maps
from wsikit.training.umeml.views import PatientView


def view_of(assignment: np.ndarray) -> PatientView:
    return PatientView(
        "p", (), assignment.shape[1], assignment, assignment, np.zeros(0, np.int64), np.zeros((2, 0, 0), np.float32), {}
    )


def test_each_store_gets_the_rows_of_its_own_patches(slide_path: Path, tmp_path: Path) -> None:
    store = tile(slide_path, tmp_path / "a.zarr", mpp=0.5, patch_px=224)
    table = store.patches()
    n = len(table)
    for rows in table.prepare((ColumnSpec("features_x", "float32", 3),), Receipt("features", 1)):
        table.write("features_x", rows, np.ones((rows.stop - rows.start, 3), np.float32))
    other = tmp_path / "b.npy"
    np.save(other, np.ones((2, 3), np.float32))
    assignment = np.random.default_rng(0).random((2 + n, 4)).astype(np.float32)
    bag = SlideBag((other, tmp_path / "a.zarr"))
    assert write_prototype_maps(view_of(assignment), bag, name="umeml", model="abc") == [tmp_path / "a.zarr"]
    with SlideStore(tmp_path / "a.zarr") as again:
        np.testing.assert_array_equal(again.patches().read("prototypes_umeml"), assignment[2:])
    with pytest.raises(RequestError, match="2 patches in the files, 5 in the view"):
        write_prototype_maps(view_of(assignment[:5]), SlideBag((other,)), name="umeml", model="abc")
