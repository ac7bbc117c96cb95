"""What a DICOM file is: slides under any name and encoding are read, everything else is named as what it is."""

from __future__ import annotations

import imagecodecs
import numpy as np
import pytest
import tifffile

from wsikit.batch.manifest import collect
from wsikit.errors import BrokenSlideError, RequestError, SlideError, UnsupportedSlideError
from wsikit.slides import open_slide
from wsikit.slides.fingerprint import fingerprint
from wsikit.slides.formats.dicom.kinds import refusal
from wsikit.slides.registry import choose_reader

_STORAGE = "1.2.840.10008.5.1.4.1.1."
RAW, DEFLATED, IMPLICIT, BIG_ENDIAN = (f"1.2.840.10008.1.2{end}" for end in (".1", ".1.99", "", ".2"))


@pytest.fixture
def tiles(levels, tiles_of):
    return [tile.tobytes() for tile in tiles_of(levels[1], 64)]


@pytest.fixture
def slide(tmp_path, tiles, write_dicom):
    """slide(name, **options): an uncompressed slide of 320 × 240 px in a folder of its own."""

    def write(name="slide.dcm", **options):
        path = tmp_path / "slide" / name
        path.parent.mkdir(exist_ok=True)
        return write_dicom(path, tiles, (320, 240), **{"native": True, "photometric": "RGB", "syntax": RAW, **options})

    return write


@pytest.mark.parametrize("sop_class", ["66.4", "66.7", "91.1"])
def test_a_segmentation_or_annotation_is_not_called_a_picture_but_part_of_a_slide(sop_class):
    words = refusal(_STORAGE + sop_class, "SEG")
    assert words is not None
    assert "It belongs to a slide" in words
    assert "picture" not in words
    assert "convert it to PNG" in str(refusal(_STORAGE + "7.4", "OT"))


@pytest.mark.parametrize(
    ("sop_class", "modality", "words"),
    [
        ("66.4", "SEG", r"a DICOM segmentation \(SEG\)"),
        ("91.1", "ANN", r"DICOM annotations of a slide \(ANN\)"),
        ("88.33", "SR", r"a DICOM structured report \(SR\)"),
        ("88.11", "SR", r"a DICOM structured report \(SR\)"),
        ("11.1", "PR", "a DICOM presentation state"),
        ("11.8", "PR", "a DICOM presentation state"),
        ("30", "OT", "a DICOM parametric map"),
        ("104.1", "DOC", "a PDF document in DICOM"),
        ("2", "CT", "a CT image"),
        ("4", "MR", "an MR image"),
        ("7", "OT", "a DICOM secondary capture"),
        ("77.1.4", "XC", r"a photograph \(VL Photographic\)"),
        ("77.1.2", "GM", r"a single field of a microscope \(VL Microscopic\)"),
        ("77.1.4.1", "XC", r"a video \(VL\)"),
        ("66", "REG", r"a DICOM file \(Raw Data Storage, modality REG\)"),
        ("99.9", "XY", r"a DICOM file \(of SOP class 1.2.840.10008.5.1.4.1.1.99.9, modality XY\)"),
    ],
)
def test_other_dicom_is_named_as_what_it_is(slide, sop_class, modality, words):
    path = slide(attributes={"SOPClassUID": _STORAGE + sop_class, "Modality": modality})
    for reader in ("auto", "dicom"):
        with pytest.raises(UnsupportedSlideError, match=f"{words}, not a DICOM slide. [GAI]"):
            open_slide(path, reader)


def test_a_dicomdir_is_named_with_the_next_step(slide):
    path = slide("DICOMDIR", attributes={"SOPClassUID": "1.2.840.10008.1.3.10"})
    with pytest.raises(UnsupportedSlideError, match="a DICOMDIR, the list .* Give a file of the slide itself"):
        open_slide(path)


def test_the_label_alone_is_no_slide(slide):
    for kind, word in (("LABEL", "label"), ("OVERVIEW", "macro"), ("THUMBNAIL", "thumbnail")):
        with pytest.raises(UnsupportedSlideError, match=f"the {word} of a DICOM slide .* Copy all files of the series"):
            open_slide(slide(kind=kind))


@pytest.mark.parametrize("content", ["header", "cut", "noise"])
def test_damage_is_called_damage_without_raw_bytes(slide, content):
    path = slide()
    data = path.read_bytes()
    path.write_bytes({"header": data[:132] + b"\xff" * 400, "cut": data[:200], "noise": data[:132]}[content])
    with pytest.raises(SlideError) as caught:
        open_slide(path)
    words = str(caught.value)
    assert words.isprintable()
    assert "\\x" not in words


@pytest.mark.parametrize("syntax", [RAW, IMPLICIT, BIG_ENDIAN, DEFLATED])
def test_a_slide_without_preamble_is_read(slide, levels, syntax):
    """As streams that were saved without the file format: with the group of the transfer syntax, or without it."""
    pixel_type = "OB" if syntax == BIG_ENDIAN else "OW"
    path = slide(syntax=syntax, pixel_type=pixel_type)
    data = path.read_bytes()
    for start in (132, *(144 + int.from_bytes(data[140:144], "little"),) * (syntax in (RAW, IMPLICIT))):
        path.write_bytes(data[start:])
        assert choose_reader(str(path)) == "dicom"
        with open_slide(path) as found:
            np.testing.assert_array_equal(found.read_region(0, 0, 320, 240), levels[1])
            assert found.mpp == pytest.approx((0.25, 0.25))


def test_a_preamble_with_the_head_of_a_tiff_is_read_as_the_dicom_slide_that_it_is(slide, levels):
    """Dual-personality files: their TIFF is one level of the slide."""
    path = slide()
    data = path.read_bytes()
    pixels = data.index(levels[1][:64, :64].tobytes())
    tiff = path.with_name("one.tif")
    tifffile.imwrite(tiff, levels[1][:64, :64], tile=(64, 64), photometric="rgb", metadata=None)
    head = bytearray(tiff.read_bytes()[:8])
    directory = len(data) + len(data) % 2
    head[4:8] = directory.to_bytes(4, "little")
    path.write_bytes(bytes(head) + bytes(120) + data[128:] + bytes(len(data) % 2) + _directory(pixels))
    with tifffile.TiffFile(path) as truth:  # it is a TIFF of one tile
        np.testing.assert_array_equal(truth.pages[0].asarray(), levels[1][:64, :64])
    with open_slide(path) as found:
        assert found.info.reader == "dicom"
        np.testing.assert_array_equal(found.read_region(0, 0, 320, 240), levels[1])


def _directory(offset: int) -> bytes:
    tags = [
        (256, 4, 64),
        (257, 4, 64),
        (258, 3, 8),
        (259, 3, 1),
        (262, 3, 2),
        (273, 4, offset),
        (277, 3, 3),
        (278, 4, 64),
    ]
    tags += [(279, 4, 64 * 64 * 3)]
    entries = b"".join(
        code.to_bytes(2, "little") + kind.to_bytes(2, "little") + b"\1\0\0\0" + value.to_bytes(4, "little")
        for code, kind, value in sorted(tags)
    )
    return len(tags).to_bytes(2, "little") + entries + bytes(4)


@pytest.mark.parametrize("names", [("IM0001", "IM0002"), ("1.2.840.99.1", "1.2.840.99.2"), ("a.dicom", "b.ima")])
def test_a_folder_of_files_without_suffix_is_one_slide(tmp_path, levels, tiles_of, write_dicom, names):
    folder = tmp_path / "cd" / "DICOM"
    folder.mkdir(parents=True)
    for name, pixels, mpp in zip(names, levels[1:], (0.25, 0.5)):
        frames = [tile.tobytes() for tile in tiles_of(pixels, 64)]
        size = (pixels.shape[1], pixels.shape[0])
        write_dicom(folder / name, frames, size, native=True, photometric="RGB", syntax=RAW, mpp=mpp)
    (folder / "README").write_text("no slide")
    for given in (folder, folder / names[0], folder / names[1]):
        with open_slide(given) as found:
            assert found.level_dimensions == ((320, 240), (160, 120))
            np.testing.assert_array_equal(found.read_region(0, 0, 320, 240), levels[1])
    with open_slide(folder) as found:
        assert found.path == str(folder / names[0])
    assert [entry.path for entry in collect([tmp_path])] == [str(folder / names[0])]
    assert fingerprint(folder / names[0]) != fingerprint(folder / names[1])


def test_files_of_other_kinds_without_suffix_are_not_collected(tmp_path, tiles, write_dicom):
    options = {"native": True, "photometric": "RGB", "syntax": RAW}
    write_dicom(tmp_path / "IM1", tiles, (320, 240), attributes={"SOPClassUID": _STORAGE + "2"}, **options)
    (tmp_path / "notes").write_text("x" * 200)
    with pytest.raises(RequestError, match="no slide found"):
        collect([tmp_path])


def test_a_folder_of_several_slides_names_them(tmp_path, tiles, write_dicom):
    options = {"native": True, "photometric": "RGB", "syntax": RAW}
    for name in ("a.dcm", "b.dcm"):
        write_dicom(tmp_path / name, tiles, (320, 240), series=f"1.2.{ord(name[0])}", **options)
    with pytest.raises(UnsupportedSlideError, match=r"a folder of 2 DICOM slides. Give one of them: a\.dcm, b\.dcm"):
        open_slide(tmp_path)
    with open_slide(tmp_path / "b.dcm") as found:
        assert len(found.level_dimensions) == 1


def test_a_deflated_file_that_is_damaged_is_not_called_unsupported(slide):
    path = slide(syntax=DEFLATED)
    data = bytearray(path.read_bytes())
    data[400:420] = b"\xff" * 20
    path.write_bytes(data)
    with pytest.raises(BrokenSlideError, match="damaged. Copy it again"):
        open_slide(path)


def test_a_transfer_syntax_that_is_not_read_is_named(tmp_path, levels, tiles_of, write_dicom):
    frames = [imagecodecs.jpeg8_encode(tile) for tile in tiles_of(levels[1], 64)]
    path = write_dicom(tmp_path / "x.dcm", frames, (320, 240), syntax="1.2.840.10008.1.2.4.51")
    with pytest.raises(UnsupportedSlideError, match=r"1\.2\.840\.10008\.1\.2\.4\.51 \(JPEG Extended"):
        open_slide(path)
