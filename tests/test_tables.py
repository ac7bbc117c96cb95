"""Tables as spreadsheets, offices and other programs write them."""

from __future__ import annotations

import codecs
import csv
import io
import re
import zipfile
from pathlib import Path

import pytest

from wsikit.errors import RequestError
from wsikit.tables import harmless, is_table, likely, number, read_table

KNOWN = ("path", "slide_id", "patient", "mpp", "mpp_x", "mpp_y")
ROWS = ((2, {"path": "é.svs", "mpp": "0,25"}), (3, {"path": "b.svs", "mpp": "0.5"}))


def rows(text: str | bytes) -> list[dict[str, str]]:
    content = text if isinstance(text, bytes) else text.encode()
    return [row for _, row in read_table("m.csv", KNOWN, content=content).rows]


@pytest.mark.parametrize(
    "content",
    [
        'path,mpp\né.svs,"0,25"\nb.svs,0.5\n'.encode(),
        "path;mpp\r\né.svs;0,25\r\nb.svs;0.5\r\n".encode("utf-8-sig"),
        "path\tmpp\né.svs\t0,25\nb.svs\t0.5\n".encode("utf-16"),
        codecs.BOM_UTF16_BE + "path\tmpp\né.svs\t0,25\nb.svs\t0.5\n".encode("utf-16-be"),
        "path;mpp\né.svs;0,25\nb.svs;0.5\n".encode("utf-16-le"),
        "path;mpp\né.svs;0,25\nb.svs;0.5\n".encode("cp1252"),
        "path;mpp\ré.svs;0,25\rb.svs;0.5\r".encode("latin-1"),
        'path,mpp,\né.svs,"0,25",\nb.svs,0.5,\n'.encode(),
        "path;mpp;;\né.svs;0,25;;\nb.svs;0.5;;\n;;;\n\n;;;\n".encode(),
        " Path ;\u00a0MPP (µm/px)\né.svs ;0,25\nb.svs; 0.5\n".encode(),
        '"path";"mpp"\n"é.svs";"0,25"\n"b.svs";"0.5"\n'.encode(),
    ],
    ids=["quoted", "bom", "utf-16", "utf-16-be", "no-bom", "cp1252", "mac", "comma-last", "empty", "names", "quotes"],
)
def test_one_table_in_the_ways_that_offices_write_it(content: bytes) -> None:
    assert read_table("m.csv", KNOWN, content=content).rows == ROWS


def test_the_first_line_that_excel_reads_names_the_separator() -> None:
    table = read_table("m.csv", KNOWN, content=b"sep=;\r\npath;mpp\r\na,b.svs;0,25\r\n")
    assert table.rows == ((3, {"path": "a,b.svs", "mpp": "0,25"}),)


def test_a_cell_with_a_line_break_is_one_cell_and_lines_are_counted_as_an_editor_does() -> None:
    table = read_table("m.csv", KNOWN, content=b'path,patient\na.svs,"one\ntwo"\nb.svs,three\n')
    assert [line for line, _ in table.rows] == [3, 4]
    assert table.rows[0][1]["patient"] == "one\ntwo"


@pytest.mark.parametrize(
    "name", ["mpp", " mpp", "MPP", "Mpp ", "mpp (µm/px)", "mpp_um", "mpp [um]", "MPP µm", "m.p.p."]
)
def test_a_pixel_size_counts_however_its_column_is_written(name: str) -> None:
    assert rows(f"path,{name}\na.svs,0.25\n") == [{"path": "a.svs", "mpp": "0.25"}]


@pytest.mark.parametrize(("name", "meant"), [("Slide ID", "slide_id"), ("slideid", "slide_id"), ("MPP-X", "mpp_x")])
def test_spaces_and_dashes_in_names_do_not_matter(name: str, meant: str) -> None:
    assert meant in rows(f"path,{name}\na.svs,1\n")[0]


def test_a_column_that_is_not_used_is_named_with_the_one_that_was_meant() -> None:
    table = read_table("m.csv", KNOWN, content=b"path,patiant,diagnosis,notes\na.svs,1,2,3\n")
    assert table.notes == (
        "m.csv: the column 'patiant' is not used; did you mean patient?",
        "m.csv: columns not used: diagnosis, notes",
    )
    assert likely("diagnosis", KNOWN) is None


@pytest.mark.parametrize("header", ["path,mpp,mpp", "path,mpp,MPP", "path,Path ,mpp"])
def test_a_used_column_that_is_there_twice_is_refused(header: str) -> None:
    with pytest.raises(RequestError, match="2 times"):
        rows(f"{header}\na.svs,1,2\n")


def test_a_row_with_more_cells_than_the_header_is_a_fault_and_not_cut() -> None:
    table = read_table("m.csv", KNOWN, content=b"path,mpp\na.svs,0,25\nb.svs,0.25\n")
    assert list(table.faults) == [2]
    assert "3 cells, but the header has 2" in table.faults[2]


def test_a_path_with_a_comma_in_a_table_of_one_column_is_one_path() -> None:
    assert rows("path\na.svs\n") == [{"path": "a.svs"}]
    assert read_table("m.csv", KNOWN, content=b"path\na,b.svs\n").faults  # named, not cut to "a"


def test_a_spreadsheet_is_refused_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "m.xlsx"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("xl/workbook.xml", "<workbook/>")
    for place in (path, path.rename(tmp_path / "m.csv")):
        with pytest.raises(RequestError, match="Save the sheet as CSV"):
            read_table(place if place.exists() else tmp_path / "m.csv", KNOWN)
    assert is_table("m.xlsx")


@pytest.mark.parametrize("content", [b"", b"\n\n", b",,\n", "\ufeff".encode()])
def test_a_table_without_a_header_is_named_as_empty(content: bytes) -> None:
    with pytest.raises(RequestError, match="is empty"):
        read_table("m.csv", KNOWN, content=content)


def test_a_binary_file_is_not_read_as_text() -> None:
    with pytest.raises(RequestError, match="not a text file"):
        read_table("m.csv", KNOWN, content=b"path\0\x01mpp\xff\0\0")


def test_an_assumed_encoding_is_said() -> None:
    table = read_table("m.csv", KNOWN, content="path\né.svs\n".encode("cp1252"))
    assert "Windows-1252" in table.notes[0]


CHINESE = "患者编号,医院,随访天数\n患者0001,北京协和医院,1024\n"


@pytest.mark.parametrize("encoding", ["gb18030", "gbk", "utf-8"])
def test_a_table_as_excel_writes_it_in_chinese_is_read(encoding: str) -> None:
    table = read_table("m.csv", ["患者编号"], content=CHINESE.encode(encoding))
    assert table.rows[0][1] == {"患者编号": "患者0001", "医院": "北京协和医院", "随访天数": "1024"}
    assert ("GB 18030" in "".join(table.notes)) == (encoding != "utf-8")


@pytest.mark.parametrize("word", ["Größe", "Prénom", "Âge", "SØRENSEN", "Über", "Ängström", "año", "ÇÖZÜM"])
def test_accented_letters_are_not_taken_for_chinese(word: str) -> None:
    table = read_table("m.csv", KNOWN, content=f"path;{word}\na.svs;1\n".encode("cp1252"))
    assert table.columns == ("path", word)


def test_a_number_has_one_decimal_separator() -> None:
    assert number("1,5") == 1.5
    with pytest.raises(ValueError, match="1,000.5"):
        number("1,000.5")


def test_lines_of_remarks_before_the_header_are_passed_over() -> None:
    content = b"# my slides\n\n#\n#path,mpp\na.svs,0.5\n"
    assert read_table("m.csv", KNOWN, content=content).rows == ((5, {"path": "a.svs", "mpp": "0.5"}),)


HOSTILE_CELLS = [
    "=1+1", "+1+1", "-leading", "@SUM(A1)", "=cmd|' /C calc'!A0", "'=1", "''=1", "'quoted'", " =1", "\ufeff=1", "-1.5",
    "-1e-3", "a=b", "<script>", "-", "+", "- 1", '=HYPERLINK("http://x";"y")', "line\nbreak", 'quote"quote', "a,b;c",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE_CELLS)
def test_what_a_spreadsheet_would_run_is_written_as_text_and_read_back_as_it_was(text: str):
    row = io.StringIO()
    csv.writer(row).writerow([harmless(text), "next"])
    cell = next(csv.reader(io.StringIO(row.getvalue())))[0]
    assert not cell.lstrip(" \ufeff\xa0").startswith(("=", "+", "@")), cell
    assert not cell.startswith("-") or float(cell) < 0
    table = read_table("t.csv", ["path"], content=f"path,other\n{row.getvalue()}".encode())
    assert table.rows[0][1]["path"] == text.strip(" \ufeff")


def test_every_table_that_is_written_disarms_its_cells():
    """A module that writes CSV for a user uses `harmless`; those of phantoms hold no text of others."""
    root = Path(__file__).parents[1] / "wsikit"
    writers = re.compile(r"csv\.(writer|DictWriter)\(|\.to_csv\(")
    without = [
        str(path.relative_to(root))
        for path in sorted(root.rglob("*.py"))
        if writers.search(path.read_text(encoding="utf-8")) and "harmless(" not in path.read_text(encoding="utf-8")
    ]
    assert without == ["phantom/cohort.py", "phantom/truth.py"]
