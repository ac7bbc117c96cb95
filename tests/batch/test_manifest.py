"""The slides of a batch, and their ids."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

import wsikit
from wsikit.batch.ids import ID_BYTES
from wsikit.batch.manifest import collect, find_slides
from wsikit.errors import RequestError, WsikitError
from wsikit.tiling.plan import ImageParameters


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
        ("path,pixel_size\na/x.svs,0.25\n", "'pixel_size' looks like a pixel size.*name it mpp"),
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


def test_pictures_in_a_folder_without_slides_are_mentioned(folder: Path) -> None:
    (folder / "pictures").mkdir()
    for name in ("a.png", "b.JPG", "notes.txt"):
        (folder / "pictures" / name).touch()
    with pytest.raises(RequestError, match="There are 2 pictures .*name them"):
        collect([folder / "pictures"])


@pytest.mark.parametrize("mpp", [0.0, -1.0, float("nan")])
def test_an_impossible_assumed_scale_is_refused(folder: Path, mpp: float) -> None:
    with pytest.raises(RequestError, match="positive"):
        collect([folder], assume_mpp=mpp)


def table(folder: Path, text: str) -> Path:
    path = folder / "m.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_names_of_columns_are_read_without_case_and_spaces(folder: Path) -> None:
    path = table(folder, ' Path , MPP ;um/px,Slide ID\na/x.svs, "0,25 µm",s1\n'.replace(" ;um/px", " (um/px)"))
    (entry,) = collect([], manifests=[path])
    assert (entry.slide_id, entry.mpp) == ("s1", 0.25)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("none.svs,,", "line 3: .*none.svs: no such file"),
        ("b/x.svs,,fine", "line 3: mpp is 'fine'"),
        ("b/x.svs,../up,", "line 3: slide_id '../up'"),
        (",s2,", "line 3: the column path is empty"),
        ("b/x.svs,s2,0,25", "line 3: 4 cells"),
        ('"b/x.svs,s2,0.25\n"b/x.tif,s3,0.5"', "line 4: the cell path goes over several lines .'b/x.svs,s2,0.25'"),
    ],
)
def test_a_wrong_row_is_one_failed_slide_with_its_line(folder: Path, row: str, said: str) -> None:
    path = table(folder, f"path,slide_id,mpp\na/x.svs,s1,0.25\n{row}\n")
    good, bad = collect([], manifests=[path])
    assert (good.slide_id, good.fault) == ("s1", "")
    with pytest.raises(WsikitError, match=said):
        bad.open()


def test_a_slide_in_two_rows_is_named(folder: Path) -> None:
    path = table(folder, "path,slide_id,mpp\na/x.svs,s1,0.25\na/../a/x.svs,s2,0.25\n")
    found = find_slides([], manifests=[path])
    assert [entry.slide_id for entry in found.entries] == ["s1"]
    assert "line 3: x.svs is named in line 2 too, as s1 and as s2" in found.notes[0]


def test_rows_that_contradict_each_other_on_a_slide_are_one_failed_slide(folder: Path) -> None:
    path = table(folder, "path,mpp\na/x.svs,0.25\na/x.svs,0.5\nb/x.svs,0.5\n")
    bad, good = collect([], manifests=[path])
    assert "with another mpp (0.25 and 0.5)" in bad.fault
    assert good.fault == ""


def test_paths_written_on_windows_or_a_mac_are_found(folder: Path) -> None:
    (folder / "a" / "Pr\u00e4parat.svs").write_bytes(b"")
    path = table(folder, "path\na\\x.svs\na/Pra\u0308parat.svs\n")
    assert [Path(entry.path).name for entry in collect([], manifests=[path])] == ["x.svs", "Pr\u00e4parat.svs"]


def test_ids_are_distinct_where_case_is_ignored(tmp_path: Path) -> None:
    for name in ("A.svs", "a.svs", "B.tif", "b.svs"):
        (tmp_path / name).write_bytes(b"")
    ids = [entry.slide_id for entry in collect([tmp_path])]
    assert len({slide_id.casefold() for slide_id in ids}) == 4
    given = [entry.slide_id for entry in collect([], manifests=[table(tmp_path, "path,slide_id\nA.svs,S\na.svs,s\n")])]
    assert given[0] == "S"
    assert given[1].casefold() != "s"


def test_an_id_fits_a_file_system_and_stays_the_same(tmp_path: Path) -> None:
    deep = tmp_path / "/".join(["病理" * 20] * 4)
    deep.mkdir(parents=True)
    for name in ("one.svs", "two.svs", "病" * 80 + ".svs"):
        (deep / name).write_bytes(b"")
    ids = [entry.slide_id for entry in collect([tmp_path])]
    assert len(set(ids)) == 3
    assert all(len(slide_id.encode()) <= ID_BYTES for slide_id in ids)
    assert ids == [entry.slide_id for entry in collect([tmp_path])]


def test_a_name_that_is_not_utf8_gets_an_id(tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/n\xff.svs"
    try:
        open(name, "wb").close()
    except OSError:
        pytest.skip("this file system has UTF-8 names only")
    (entry,) = collect([tmp_path])
    assert entry.slide_id == "n_"
    assert os.fsencode(entry.path) == name


def test_links_pipes_and_loops_are_passed_over_and_named(folder: Path) -> None:
    (folder / "b" / "up").symlink_to("..")
    (folder / "b" / "gone.svs").symlink_to("nowhere")
    (folder / "b" / "self.tif").symlink_to("self.tif")
    os.mkfifo(folder / "b" / "pipe.tif")
    found = find_slides([folder])
    assert len(found.entries) == 5
    assert len(found.notes) == 4
    for words in ("up: passed over, a link to a folder", "gone.svs", "self.tif", "pipe.tif: passed over, neither"):
        assert any(words in note for note in found.notes), words


def test_a_folder_that_cannot_be_read_is_passed_over_and_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    iterdir = Path.iterdir

    def refuse(self: Path):
        if self.name == "deep":
            raise PermissionError(13, "Permission denied", str(self))
        return iterdir(self)

    monkeypatch.setattr(Path, "iterdir", refuse)
    found = find_slides([folder])
    assert len(found.entries) == 4
    assert "deep: passed over, it cannot be read (Permission denied)" in found.notes[0]


def test_stores_of_a_run_below_the_folder_are_passed_over(folder: Path) -> None:
    out = folder / "out"
    for name in ("slides/x.zarr", "slides/y.zarr", "results/x"):
        (out / name).mkdir(parents=True)
    (out / "slides" / "late.svs").write_bytes(b"")  # a user's own file in a folder of that name
    assert len(find_slides([folder], out=out).entries) == 6
    (out / "run.json").write_text('{"configuration": {}, "slides": [], "versions": {}}')
    found = find_slides([folder])
    assert len(found.entries) == 6
    assert "2 stores passed over" in found.notes[0]
    assert len(find_slides([out / "slides"]).entries) == 3  # named outright, they are meant


def test_a_store_of_a_slide_that_is_in_the_input_too_is_not_a_second_slide(slide_path: Path, tmp_path: Path) -> None:
    wsikit.tile(slide_path, tmp_path / "s.zarr", image=ImageParameters(pixels="none"))
    shutil.copy(slide_path, tmp_path / "other.tiff")
    for given in ([tmp_path], [tmp_path / "s.zarr", tmp_path / "other.tiff"]):
        found = find_slides(given)
        assert all(entry.path.endswith(".tiff") for entry in found.entries)
        assert any("s.zarr: passed over, the store of a slide" in note for note in found.notes)
    assert len(find_slides([tmp_path / "s.zarr"]).entries) == 1


def test_an_id_of_two_rows_fails_these_rows_only(folder: Path) -> None:
    path = table(folder, "path,slide_id\na/x.svs,s1\nb/x.svs,s1\nb/x.tif,s2\n")
    first, second, third = collect([], manifests=[path])
    assert (third.slide_id, third.fault) == ("s2", "")
    assert first.slide_id != second.slide_id
    for bad in (first, second):
        with pytest.raises(WsikitError, match="'s1' is given twice .*line 2 and .*line 3"):
            bad.open()


def test_contradicting_pixel_sizes_of_a_row_are_a_failed_row(folder: Path) -> None:
    path = table(folder, "path,mpp,mpp_x,mpp_y\na/x.svs,0.5,0.25,0.25\nb/x.svs,0.5,0.5,0.5\n")
    bad, good = collect([], manifests=[path])
    assert good.mpp == 0.5
    with pytest.raises(WsikitError, match="line 2: mpp is 0.5, but mpp_x 0.25 and mpp_y 0.25"):
        bad.open()


def test_a_header_without_rows_is_named(folder: Path) -> None:
    with pytest.raises(RequestError, match=r"no slide found\. .*m.csv: the manifest has a header and no rows"):
        collect([], manifests=[table(folder, "path,mpp\n")])
