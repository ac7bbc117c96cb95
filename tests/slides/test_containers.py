"""Files whose pixels lie in other files are refused by name, and never shown as the picture of the label they hold."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

import wsikit
from wsikit.batch.manifest import find_slides
from wsikit.errors import RequestError, UnsupportedSlideError
from wsikit.slides import open_slide

LABEL = np.full((96, 128, 3), 250, np.uint8)


def refusal(path: Path, reader: str = "auto") -> str:
    with pytest.raises(UnsupportedSlideError) as refused:
        open_slide(path, reader)
    assert str(refused.value).startswith(f"{path}: ")
    assert "\n" not in str(refused.value)
    return str(refused.value)


def write_vsi(folder: Path, name: str = "a", suffix: str = ".vsi") -> Path:
    stack = folder / f"_{name}_" / "stack1"
    stack.mkdir(parents=True)
    (stack / "frame_t.ets").write_bytes(b"SIS\0" + bytes(200))
    path = folder / (name + suffix)
    tifffile.imwrite(path, LABEL, photometric="rgb", metadata=None, tile=(64, 64))
    return path


@pytest.mark.parametrize("reader", ["auto", "tiff", "image", "tiffslide"])
@pytest.mark.parametrize("suffix", [".vsi", ".VSI", ".tif"])
def test_an_olympus_vsi_is_refused_whatever_its_name_and_reader(tmp_path, suffix, reader):
    words = refusal(write_vsi(tmp_path, suffix=suffix), reader)
    assert "an Olympus VSI" in words
    assert "raw2ometiff" in words


def test_an_olympus_vsi_without_its_folder_and_its_parts_are_refused(tmp_path):
    path = write_vsi(tmp_path)
    assert "which no reader here reads" in refusal(tmp_path / "_a_" / "stack1" / "frame_t.ets")
    assert "a.vsi" in refusal(tmp_path / "_a_")
    shutil.rmtree(tmp_path / "_a_")
    assert "not next to it" in refusal(path)


@pytest.mark.parametrize("reader", ["auto", "image"])
@pytest.mark.parametrize("folder", [True, False])
def test_a_mirax_without_its_folder_is_not_its_preview(tmp_path, folder, reader):
    path = tmp_path / "a.mrxs"
    Image.fromarray(LABEL).save(path, "JPEG")
    if folder:
        (tmp_path / "a").mkdir()
    assert "a MIRAX slide without its pixels: the folder a next to it " in refusal(path, reader)


def test_a_mirax_folder_names_its_file(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "Slidedat.ini").write_text("[GENERAL]\nSLIDE_ID = 1\n")
    assert "a.mrxs is not next to it" in refusal(tmp_path / "a")
    assert "Give a.mrxs" in refusal(tmp_path / "a" / "Slidedat.ini")
    (tmp_path / "a.mrxs").touch()
    assert "Give a.mrxs next to it" in refusal(tmp_path / "a")


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_hamamatsu_files_that_name_others(tmp_path, line_end):
    vms = line_end.join(("[Virtual Microscope Specimen]", "NoLayers=1", "ImageFile=a.jpg", "MapFile=a_map.jpg", ""))
    (tmp_path / "a.vms").write_bytes(vms.encode())
    (tmp_path / "a_map.jpg").touch()
    words = refusal(tmp_path / "a.vms")
    assert "not next to it: a.jpg." in words
    ndpis = line_end.join(
        ("[NanoZoomer Digital Pathology Image Set]", "NoImages=2", "Image0=a.ndpi", "Image1=b.ndpi", "")
    )
    (tmp_path / "a.ndpis").write_bytes(ndpis.encode())
    assert "Give one of them: a.ndpi, b.ndpi" in refusal(tmp_path / "a.ndpis")


OME = '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image><Pixels>{}</Pixels></Image></OME>'


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        (
            "a.companion.ome",
            OME.format('<TiffData><UUID FileName="b.ome.tif"/></TiffData>'),
            "Give the file of a slide: b.ome",
        ),
        ("a.ome.xml", OME.format("<BinData/>"), "pixels as text"),
        ("a.afi", "<ImageList><Image><Path>a_dapi.svs</Path></Image></ImageList>", "Give one of them: a_dapi.svs"),
        ("a.dzi", '<Image xmlns="http://schemas.microsoft.com/deepzoom/2008"/>', "a_files"),
        ("a.isyntax", '<DataObject ObjectType="DPUfsImport"><Attribute/>', "a Philips iSyntax"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_texts_that_name_other_files(tmp_path, name, text, words, encoding):
    path = tmp_path / name
    path.write_bytes(f'<?xml version="1.0"?>\n{text}'.encode(encoding))
    assert words in refusal(path)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.zvi", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "a Zeiss ZVI"),
        ("a.mds", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "a Motic"),
        ("a.lif", b"\x70\0\0\0", "a Leica LIF"),
        ("renamed.dat", b"OLYMPUSRAWFORMAT", "an Olympus OIR"),
        ("a.kfb", b"KFB", "a KFBIO"),
        ("a.sdpc", b"SQ", "a TEKSQRAY"),
        ("a.nd2", b"\0\0\0\x0cjP  ", "a Nikon ND2"),
    ],
)
def test_formats_of_other_programs_are_named(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content + bytes(300))
    assert words in refusal(tmp_path / name)


def test_a_dicom_directory_is_no_slide(tmp_path):
    meta = b"\x02\0\x02\0UI\x14\x001.2.840.10008.1.3.10\0"
    (tmp_path / "DICOMDIR").write_bytes(bytes(128) + b"DICM" + meta + bytes(400))
    assert "a DICOMDIR" in refusal(tmp_path / "DICOMDIR")
    assert "a DICOM medium" in refusal(tmp_path)


def test_a_folder_with_a_vsi_passes_it_over_and_says_so(tmp_path):
    path = write_vsi(tmp_path)
    with pytest.raises(RequestError, match="no slide found.*a.vsi: passed over, an Olympus VSI"):
        find_slides([tmp_path])
    tifffile.imwrite(tmp_path / "b.tif", LABEL, photometric="rgb", tile=(64, 64))
    found = find_slides([tmp_path])
    assert [entry.slide_id for entry in found.entries] == ["b"]
    assert any(str(path) in note for note in found.notes)


def test_a_vsi_that_is_given_is_one_failed_row(tmp_path):
    result = wsikit.run(write_vsi(tmp_path), tmp_path / "out")
    assert [row.status for row in result] == ["failed"]
    assert "an Olympus VSI" in result[0].error
    assert not (tmp_path / "out" / "slides" / "a.zarr").exists()


def test_ordinary_pictures_next_to_folders_of_other_names_are_read(tmp_path):
    (tmp_path / "_a_").mkdir()
    tifffile.imwrite(tmp_path / "a.tif", LABEL, photometric="rgb", tile=(64, 64))
    open_slide(tmp_path / "a.tif").close()
