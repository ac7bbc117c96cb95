"""Tables of patches: rows stay rows, and whatever is wrong is named with its line."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wsikit.errors import RequestError, WsikitError
from wsikit.training.datasets import Columns, map_classes, read_names, read_table
from wsikit.training.datasets.classes import class_indices


def png(value: int, size: tuple[int, int] = (4, 4), mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    Image.new(mode, size, value if mode != "RGB" else (value, 0, 0)).save(file, "png")
    return file.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images a.png, b.png, sub/c.png, red 10, 20, 30."""
    (tmp_path / "sub").mkdir()
    for name, value in (("a.png", 10), ("b.png", 20), ("sub/c.png", 30)):
        (tmp_path / name).write_bytes(png(value))
    return tmp_path


TABLE = "file_name,description,class,patient,x,y\nb.png,two,PD,p2,5,6\na.png,,UD,p1,1,2\nsub/c.png,three,D,p1,3,4\n"


def write(folder: Path, text: str) -> Path:
    (folder / "t.csv").write_text(text, encoding="utf-8")
    return folder / "t.csv"


def test_all_missing_columns_are_named_at_once_with_the_header_as_it_is_written(folder: Path):
    (folder / "t.csv").write_text("File Name,tissue\na.png,x\n")
    with pytest.raises(
        RequestError, match=r"'class' for the label, 'case' for the patient \(there: File Name, tissue\)"
    ):
        read_table(folder / "t.csv", folder, columns=Columns(patient="case"))


def test_every_column_keeps_to_its_row_and_so_do_the_images(folder: Path):
    table = read_table(write(folder, TABLE), folder)
    assert table.files == ("b.png", "a.png", "sub/c.png")
    assert table.captions == ("two", None, "three")
    assert table.classes == ("PD", "UD", "D")
    assert table.patients == ("p2", "p1", "p1")
    assert table.slides == (None, None, None)
    assert table.coords is not None
    assert table.coords.tolist() == [[5, 6], [1, 2], [3, 4]]
    assert [image[0, 0, 0] for image in table.images([2, 0, 1])] == [30, 20, 10]
    chosen = table.select([2, 1])
    assert [image[0, 0, 0] for image in chosen.images([0, 1])] == [30, 10]
    assert chosen.captions == ("three", None)


def test_a_row_left_out_takes_all_its_columns_with_it(folder: Path):
    """The official code trimmed the tail of the table instead, and so gave every later image another's text."""
    mapped = map_classes(read_table(write(folder, TABLE), folder), {"PD": "pd", "D": "d"}, drop_others=True)
    assert mapped.dropped == {"UD": 1}
    assert mapped.table.classes == ("pd", "d")
    assert mapped.table.captions == ("two", "three")
    assert [image[0, 0, 0] for image in mapped.table.images([0, 1])] == [20, 30]
    assert class_indices(mapped.table, ("d", "pd")).tolist() == [1, 0]


def test_a_zip_holds_images_and_table_and_goes_to_another_process(folder: Path, tmp_path: Path):
    place = tmp_path / "all.zip"
    with zipfile.ZipFile(place, "w") as archive:
        archive.writestr("index.csv", TABLE)
        for name in ("a.png", "b.png", "sub/c.png"):
            archive.write(folder / name, name)
    for csv in (None, "index.csv"):
        table = pickle.loads(pickle.dumps(read_table(csv, place)))
        assert [image[0, 0, 0] for image in table.images([0, 1, 2])] == [20, 10, 30]


def test_other_names_of_columns_and_what_is_named_must_be_there(folder: Path):
    text = TABLE.replace("file_name", "file").replace("class", "label")
    table = read_table(write(folder, text), folder, columns=Columns(file="file", label="label"))
    assert table.classes == ("PD", "UD", "D")
    with pytest.raises(
        RequestError, match=r"no column 'case' for the patient \(there: file, .*columns: {patient: NAME}"
    ):
        read_table(folder / "t.csv", folder, columns=Columns(file="file", label="label", patient="case"))
    without = read_table(folder / "t.csv", folder, columns=Columns(file="file", label="label", x=None, y=None))
    assert without.coords is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (TABLE.replace("UD", ""), r"line 3: no class in column 'class'. Fill it in"),
        (TABLE.replace("UD", "NaN"), r"line 3: no class"),
        (TABLE.replace("a.png", "z.png"), r"line 3: z.png is not in .* \(1 of 3 images are not\)"),
        (TABLE.replace("a.png", "./b.png"), r"line 3: b.png duplicates line 2"),
        (TABLE.replace("a.png", ""), r"line 3: no file name"),
        (TABLE.replace(",1,2", ",1,left"), r"line 3: 'left' in column 'y'; expected a number"),
        (TABLE.replace("two", "two, three"), r"line 2: 7 cells but the header has 6"),
        (TABLE.replace("patient", "class"), r"two columns are called 'class'"),
        ("file_name,class\n", r"1 line\(s\); expected a header"),
        (TABLE.replace("class", "kind"), r"no column 'class' for the label"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(folder: Path, text: str, said: str):
    with pytest.raises(RequestError, match=said):
        read_table(write(folder, text), folder)


def test_a_quoted_caption_may_hold_commas_and_lines(folder: Path):
    table = read_table(write(folder, TABLE.replace("two", '"dense,\nround nuclei"')), folder)
    assert table.captions[0] == "dense,\nround nuclei"
    with pytest.raises(RequestError, match="line 4: no class"):  # as an editor counts lines
        read_table(write(folder, TABLE.replace("two", '"dense,\nround"').replace("UD", "")), folder)


def test_an_unreadable_image_is_named_when_it_is_asked_for(folder: Path):
    table = read_table(write(folder, TABLE), folder)
    (folder / "a.png").write_bytes(png(10)[:40])
    assert len(table.images([0, 2])) == 2
    with pytest.raises(WsikitError, match=r"a\.png: not readable as an image .*remove its row"):
        table.images([1])
    (folder / "a.png").write_bytes(png(300, mode="I;16"))
    with pytest.raises(WsikitError, match="I;16 pixels; expected 8 bits"):
        table.images([1])


def test_grey_and_transparent_images_come_as_rgb(folder: Path):
    (folder / "a.png").write_bytes(png(77, mode="L"))
    image = read_table(write(folder, TABLE), folder).images([1])[0]
    assert image.shape == (4, 4, 3)
    assert image.dtype == np.uint8
    assert (image == 77).all()


def test_a_value_without_a_class_is_refused_by_name(folder: Path):
    table = read_table(write(folder, TABLE), folder)
    with pytest.raises(RequestError, match=r"a\.png is of class 'UD'; expected one of 'PD', 'D'\. .*: 'UD' \(1\)\."):
        map_classes(table, {"PD": "PD", "D": "D"})
    with pytest.raises(RequestError, match=r"\{code: PD, values: \[ud, PD, UD\]\}"):
        map_classes(table, {"ud": "PD", "PD": "PD", "D": "D"})  # written with other letters: not the same value
    with pytest.raises(RequestError, match="no row is of one of 'Ganglion'"):
        map_classes(table, {"Ganglion": "G"}, drop_others=True)


def test_names_tell_class_and_patient(tmp_path: Path):
    for name in ("TUM___A-1_7.png", "STR___B-2_1.png"):
        (tmp_path / name).write_bytes(png(1))
    table = read_names(tmp_path, r"(?P<label>\w+?)___(?P<patient>.+)_\d+\.png")
    assert table.classes == ("STR", "TUM")
    assert table.patients == ("B-2", "A-1")
    (tmp_path / "readme.png").write_bytes(png(1))
    with pytest.raises(RequestError, match="readme.png does not match"):
        read_names(tmp_path, r"(?P<label>\w+?)___(?P<patient>.+)_\d+\.png")
    with pytest.raises(RequestError, match=r"expected \(\?P<label>"):
        read_names(tmp_path, ".*")


def test_real_tables_are_read_whole(data_dir: Path):
    idc = read_table(None, data_dir / "patches" / "idc.zip", columns=Columns(file="file", label="label"))
    assert (len(idc), len(set(idc.patients))) == (6860, 176)
    assert idc.coords is not None
    assert f"_x{idc.coords[7, 0]:.0f}_y{idc.coords[7, 1]:.0f}_" in idc.files[7]
    assert all(file.endswith(f"class{label}.png") for file, label in zip(idc.files, idc.classes, strict=True))
    spots = Columns(file="file", label="annotation", slide="section", x="pixel_x", y="pixel_y")
    her2 = read_table("spots.csv", data_dir / "patches" / "her2st.zip", columns=spots)
    assert len(her2) == 727
    assert set(her2.slides) == {"C2", "C3", "C4", "C5"}
