"""Patch features of slides: layouts of other tools, several slides per patient, what is missing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from wsikit.errors import RequestError
from wsikit.training.cohort.bags import find_bag, read_bag, slide_means
from wsikit.training.cohort.cohort import load_cohort
from wsikit.training.cohort.config import CohortTrainConfig

BAG = np.arange(12, dtype=np.float32).reshape(4, 3)


def _hdf5(path: Path, name: str, values: np.ndarray) -> Path:
    with h5py.File(path, "w") as file:
        file[name] = values
    return path


def _tensor(path: Path) -> Path:
    torch.save(torch.from_numpy(BAG), path)
    return path


def _array(path: Path) -> Path:
    np.save(path, BAG)
    return path


@pytest.mark.parametrize(
    "write",
    [
        lambda folder: _hdf5(folder / "s.h5", "features", BAG),
        lambda folder: _hdf5(folder / "s.h5", "features", BAG[None]),
        lambda folder: _hdf5(folder / "s.h5", "feats", BAG.astype(np.float16)),
        lambda folder: _tensor(folder / "s.pt"),
        lambda folder: _array(folder / "s.npy"),
    ],
    ids=["trident", "trident with a leading axis", "stamp", "clam", "torchmil"],
)
def test_the_layouts_of_other_tools_are_read(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    found = read_bag(write(tmp_path))
    assert found.dtype == np.float32
    assert np.array_equal(found, BAG)


def test_the_encoder_of_a_file_with_several_is_named(tmp_path: Path) -> None:
    path = _hdf5(tmp_path / "s.h5", "features/uni", BAG)
    assert np.array_equal(read_bag(path), BAG)
    with h5py.File(path, "a") as file:
        file["features/conch"] = BAG + 1
    assert np.array_equal(read_bag(path, column="conch"), BAG + 1)
    with pytest.raises(RequestError, match="features of conch, uni. Name one as data.encoder"):
        read_bag(path)
    with pytest.raises(RequestError, match="features of conch, uni, not virchow"):
        read_bag(path, column="virchow")


def test_features_are_found_in_the_folders_that_clam_makes(tmp_path: Path) -> None:
    for name in ("h5_files", "pt_files"):
        (tmp_path / name).mkdir()
    assert find_bag(tmp_path, "s.svs") is None
    _tensor(tmp_path / "pt_files" / "s.pt")
    assert find_bag(tmp_path, "s.svs") == tmp_path / "pt_files" / "s.pt"


def test_features_of_a_real_file_are_read(data_dir: Path) -> None:
    files = sorted((data_dir / "features").rglob("*.h5"))
    if not files:
        pytest.skip("no feature files there")
    assert sorted(read_bag(path).shape for path in files) == [(180, 512), (777, 512)]


def test_a_file_is_found_with_or_without_the_suffix_of_the_slide(tmp_path: Path) -> None:
    _array(tmp_path / "TCGA-02-0001-01Z-00-DX1.83FCE43C.npy")
    assert find_bag(tmp_path, "TCGA-02-0001-01Z-00-DX1.83FCE43C.svs") is not None
    assert find_bag(tmp_path, "TCGA-02-0001-01Z-00-DX1.83FCE43C") is not None
    assert find_bag(tmp_path, "TCGA-02-0001-01Z-00-DX1") is None


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.full((2, 3), np.nan, np.float32), "2 of 2 patches are not finite"),
        (np.zeros((0, 3), np.float32), r"shape \(0, 3\)"),
        (np.zeros(3, np.float32), r"shape \(3,\)"),
    ],
)
def test_unusable_features_are_refused(tmp_path: Path, values: np.ndarray, said: str) -> None:
    np.save(tmp_path / "s.npy", values)
    with pytest.raises(RequestError, match=said):
        read_bag(tmp_path / "s.npy")


def test_slides_of_a_patient_are_one_bag_and_nothing_is_read_before(
    rows: list[dict[str, Any]], configured: Callable[..., CohortTrainConfig], tmp_path: Path
) -> None:
    folder = tmp_path / "features"
    folder.mkdir()
    more = [*rows, rows[0] | {"slide": "P000-B.svs"}]
    for row in more[1:]:
        (folder / f"{Path(row['slide']).stem}.npy").write_bytes(b"not read")
    np.save(folder / "P000-A.npy", BAG)
    np.save(folder / "P000-B.npy", BAG + 100)
    (folder / "P001-A.npy").unlink()
    cohort = load_cohort(configured(more, data={"slide": "slide", "features": str(folder)}))
    assert cohort.slides == 120
    assert [one.text.split(": ", 2)[-1] for one in cohort.findings] == [
        "no features of 1 slides, such as 'P001-A.svs'; 1 patients have no slide."
    ]
    bags = cohort.part.bags
    assert bags is not None
    assert bags[1] is None
    assert bags[0] is not None
    assert bags[0]().shape == (8, 3)
    means = slide_means(cohort.part.take([0, 1]))
    assert np.allclose(means[0], np.concatenate([BAG, BAG + 100]).mean(axis=0))
    assert np.isnan(means[1]).all()
