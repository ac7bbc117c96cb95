"""The slides of a batch, and their ids."""

from __future__ import annotations

from pathlib import Path

import pytest

from wsikit.batch.manifest import collect
from wsikit.errors import RequestError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two folders with equal names in them, a hidden file, and things that are no slides."""
    for name in ("a/x.svs", "b/x.svs", "b/x.tif", "b/deep/y z.ndpi", "b/notes.txt", "b/.hidden.svs"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    (tmp_path / "b" / "s.zarr").mkdir()
    (tmp_path / "b" / "s.zarr" / "inner.tif").write_bytes(b"")
    return tmp_path


def test_equal_names_in_two_folders_get_two_ids(folder: Path) -> None:
    ids = {entry.slide_id: Path(entry.path).relative_to(folder).as_posix() for entry in collect([folder])}
    assert ids == {
        "a__x": "a/x.svs",
        "b__deep__y_z": "b/deep/y z.ndpi",
        "b__s": "b/s.zarr",
        "b__x.svs": "b/x.svs",
        "b__x.tif": "b/x.tif",
    }


def test_equal_names_given_as_files_get_two_ids_that_stay_the_same(folder: Path) -> None:
    first = [entry.slide_id for entry in collect([folder / "a/x.svs", folder / "b/x.svs"])]
    assert len(set(first)) == 2
    assert [entry.slide_id for entry in collect([folder / "a/x.svs", folder / "b/x.svs"])] == first


def test_an_id_that_another_path_has_in_the_output_folder_is_not_given_again(folder: Path) -> None:
    taken = {"x": str(folder / "a/x.svs")}
    assert collect([folder / "a/x.svs"], taken=taken)[0].slide_id == "x"
    assert collect([folder / "b/x.svs"], taken=taken)[0].slide_id != "x"


def test_a_slide_named_twice_is_run_once(folder: Path) -> None:
    assert len(collect([folder / "a", folder / "a/x.svs"])) == 1


def test_a_file_given_by_its_path_is_tried_whatever_its_suffix(folder: Path) -> None:
    assert [entry.slide_id for entry in collect([folder / "b/notes.txt"])] == ["notes"]


def test_a_manifest_gives_paths_relative_to_it_ids_and_scales(folder: Path) -> None:
    manifest = folder / "slides.csv"
    manifest.write_text("path,slide_id,mpp,mpp_x,mpp_y\na/x.svs,case-1,0.25,,\nb/x.svs,,,0.25,0.26\nb/x.tif,,,,\n")
    entries = collect([], manifests=[manifest])
    assert [(entry.slide_id, entry.mpp) for entry in entries] == [
        ("case-1", 0.25),
        ("b__x.svs", (0.25, 0.26)),
        ("b__x.tif", None),
    ]


def test_an_assumed_scale_stays_apart_from_a_stated_one(folder: Path) -> None:
    manifest = folder / "slides.csv"
    manifest.write_text("path,mpp\na/x.svs,0.25\n")
    entry = collect([], manifests=[manifest], assume_mpp=0.5)[0]
    assert (entry.mpp, entry.assume_mpp) == (0.25, 0.5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file\nx.svs\n", "needs a column path"),
        ("path,MPP\na/x.svs,0.25\n", "'mpp'"),
        ("path,mpp\na/x.svs,fine\n", "line 2.*'fine'"),
        ("path,mpp_x\na/x.svs,0.25\n", "line 2.*both"),
        ("path\nnone.svs\n", "line 2.*no such file"),
        ("path,slide_id\na/x.svs,../up\n", "letters, digits"),
        ("path,slide_id\na/x.svs,s\nb/x.svs,s\n", "duplicate slide_id"),
    ],
)
def test_a_wrong_manifest_is_refused_with_its_line(folder: Path, text: str, message: str) -> None:
    manifest = folder / "slides.csv"
    manifest.write_text(text)
    with pytest.raises(RequestError, match=message):
        collect([], manifests=[manifest])


def test_a_folder_without_slides_and_a_missing_path_are_wrong_requests(folder: Path) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(RequestError, match="no slide found"):
        collect([folder / "empty"])
    with pytest.raises(RequestError, match="no such file"):
        collect([folder / "nothing.svs"])


@pytest.mark.parametrize("mpp", [0.0, -1.0, float("nan")])
def test_an_impossible_assumed_scale_is_refused(folder: Path, mpp: float) -> None:
    with pytest.raises(RequestError, match="positive"):
        collect([folder], assume_mpp=mpp)
