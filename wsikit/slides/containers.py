"""Files that are no slides themselves: their pixels lie in other files, or in a format that no reader here reads.

Some of them look like pictures. The TIFF of an Olympus VSI and the JPEG of a MIRAX show the glass with its label: to
read them as the slide would be wrong, and would show what identifies the patient. They are recognised by their content
and their neighbours, and by their name where the content is that of an ordinary picture.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from xml.etree import ElementTree

BIOFORMATS = (
    "Convert it to OME-TIFF (bioformats2raw IN OUT.zarr, then raw2ometiff OUT.zarr OUT.ome.tif), or export it from the "
    "scanner's software as SVS, tiled TIFF or DICOM."
)

UNREAD_SUFFIXES = {
    ".vsi": "an Olympus VSI",
    ".ets": "the pixels of an Olympus VSI",
    ".oir": "an Olympus OIR",
    ".oib": "an Olympus OIB",
    ".oif": "an Olympus OIF",
    ".zvi": "a Zeiss ZVI",
    ".lif": "a Leica LIF",
    ".xlef": "a Leica XLEF",
    ".nd2": "a Nikon ND2",
    ".isyntax": "a Philips iSyntax",
    ".i2syntax": "a Philips iSyntax",
    ".sdpc": "an SDPC of a TEKSQRAY scanner",
    ".dyqx": "a DYQX of a TEKSQRAY scanner",
    ".kfb": "a KFB of a KFBIO scanner",
    ".kfbf": "a KFBF of a KFBIO scanner",
    ".tmap": "a TMAP of a UNIC scanner",
    ".tron": "a TRON of an InteMedic scanner",
    ".mds": "an MDS of a Motic scanner",
    ".mdsx": "an MDSX of a Motic scanner",
    ".eslide": "an eSlide of a Mikroscan scanner",
    ".ibl": "an IBL of an iBingLi scanner",
    ".lsm": "a Zeiss LSM",
    ".ims": "an Imaris IMS",
}
"""What files of these names are, of which no reader here reads the pixels; a plug-in may."""

_OLE, _HDF5, _LIF, _ND2 = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", b"\x89HDF\r\n", b"\x70\0\0\0", b"\xda\xce\xbe\x0a"
_OIR, _ETS = b"OLYMPUSRAWFORMAT", b"SIS\0"
_READABLE_AS_TIFF = (".lsm",)
_TEXT_BYTES = 1 << 20
_DICOM_DIRECTORY = b"1.2.840.10008.1.3.10"


def container_fault(path: str, head: bytes) -> str | None:
    """What the file is and the next step, if its pixels are not in it or cannot be read; None for other files.

    Parameters
    ----------
    path
        The file.
    head
        Its first bytes, 132 or more.
    """
    file = Path(path)
    suffix = file.suffix.lower()
    if _is_tiff(head):
        return _of_olympus(file) if suffix == ".vsi" or _ets_folder(file) is not None else None
    if suffix == ".mrxs":
        return _of_mirax(file)
    if head[128:132] == b"DICM":
        return _of_dicom_directory(file)
    if head[:1] == b"[" or head[:4] == b"\xef\xbb\xbf[":
        return _of_key_file(file)
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if start[:1] == b"<" or start[:4] in (b"\xff\xfe<\0",):
        return _of_xml(file, suffix)
    return _unreadable(head, suffix)


def folder_fault(path: str) -> str | None:
    """What a folder is that was given in place of a slide file, and the next step; None if that is not known."""
    folder = Path(path)
    name = folder.name
    if len(name) > 2 and name[0] == name[-1] == "_" and (vsi := folder.with_name(f"{name[1:-1]}.vsi")).is_file():
        return f"the data folder of an Olympus VSI, {vsi.name}, which no reader here reads. {BIOFORMATS}"
    if (mirax := folder.with_name(f"{name}.mrxs")).is_file():
        return f"the data folder of a MIRAX slide. Give {mirax.name} next to it."
    if (folder / "Slidedat.ini").is_file():
        return f"the data folder of a MIRAX slide, whose file {name}.mrxs is not next to it. Copy that file too."
    if (folder / "DICOMDIR").is_file():
        return "a DICOM medium. Give a file of the slide, or run the folder with wsikit run."
    return None


def unread_kind(path: Path) -> str | None:
    """What a file is by its name, if no reader here reads its pixels; None for other names.

    >>> unread_kind(Path("a.vsi")), unread_kind(Path("a.svs"))
    ('an Olympus VSI', None)
    """
    suffix = path.suffix.lower()
    if suffix in _READABLE_AS_TIFF:
        return None
    if path.name.lower().endswith(".companion.ome"):
        return "the OME-XML of other files"
    return UNREAD_SUFFIXES.get(suffix) or {".ndpis": "a set of NDPI files", ".afi": "a set of SVS files"}.get(suffix)


def _is_tiff(head: bytes) -> bool:
    return head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def _ets_folder(file: Path) -> Path | None:
    """The folder with the pixels of an Olympus VSI, `_NAME_`, next to its file; None if there is none."""
    folder = file.with_name(f"_{file.stem}_")
    if not folder.is_dir():
        return None
    return folder if next(folder.glob("stack*/frame_t*.ets"), None) is not None else None


def _of_olympus(file: Path) -> str:
    folder = f"_{file.stem}_"
    what = f"an Olympus VSI, whose pixels are in {folder}/stack*/frame_t.ets"
    if _ets_folder(file) is None:
        return (
            f"{what}, and that folder is not next to it; the file itself can hold the picture of the label. Copy the "
            f"folder too. {BIOFORMATS}"
        )
    return f"{what}, which no reader here reads; the file itself holds the picture of the label. {BIOFORMATS}"


def _of_mirax(file: Path) -> str | None:
    folder = file.with_suffix("")
    if (folder / "Slidedat.ini").is_file():
        return None
    lacks = "lacks Slidedat.ini" if folder.is_dir() else "is missing"
    return (
        f"a MIRAX slide without its pixels: the folder {folder.name} next to it {lacks}. The file itself holds only a "
        "preview, which can show the label. Copy the whole folder from its source."
    )


def _of_dicom_directory(file: Path) -> str | None:
    with open(file, "rb") as opened:
        meta = opened.read(1024)
    found = re.search(rb"\x02\0\x02\0UI..([0-9.]+)", meta, re.DOTALL)
    if found is None or found.group(1) != _DICOM_DIRECTORY:
        return None
    return "a DICOMDIR, the list of the files of a DICOM medium. Give a file of the slide itself."


def _of_key_file(file: Path) -> str | None:
    text = _text(file)
    title = text.lstrip("\ufeff").partition("\n")[0].strip().strip("[]").lower()
    values = dict(re.findall(r"^(\w+(?:\(\d+,\d+\))?)\s*=\s*(.+?)\s*$", text, re.MULTILINE))
    if "image set" in title and "nanozoomer" in title:
        names = [value for key, value in values.items() if re.fullmatch(r"Image\d+", key)]
        return f"a set of NDPI files, one for each channel. Give one of them: {_names(names)}."
    if "virtual microscope specimen" in title:
        wanted = [value for key, value in values.items() if key.startswith(("ImageFile", "MapFile"))]
        missing = [name for name in wanted if not (file.parent / name).is_file()]
        if missing:
            return (
                f"a Hamamatsu {file.suffix[1:].upper() or 'VMS'} whose pixels are in other files; not next to it: "
                f"{_names(missing)}. Copy them from its source."
            )
        return None
    if file.name.lower() == "slidedat.ini" or "general" in title and "SLIDE_ID" in values:
        return f"a part of a MIRAX slide. Give {file.parent.name}.mrxs next to the folder."
    return None


def _of_xml(file: Path, suffix: str) -> str | None:
    text = _text(file)
    if "DPUfsImport" in text[:4096] or suffix in (".isyntax", ".i2syntax"):
        return f"a Philips iSyntax, which no reader here reads. {BIOFORMATS}"
    try:
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError):
        return None
    kind = root.tag.rpartition("}")[2]
    if kind == "OME":
        if root.find(".//{*}BinData") is not None:
            return f"OME-XML with its pixels as text, which no reader here reads. {BIOFORMATS}"
        names = {element.get("FileName", "") for element in root.iterfind(".//{*}TiffData/{*}UUID")} - {""}
        return f"the OME-XML of other files, without pixels. Give the file of a slide: {_names(sorted(names))}."
    if kind == "ImageList":
        names = {(element.text or "").strip() for element in root.iterfind(".//{*}Path")} - {""}
        return f"an Aperio AFI, a set of one file for each channel. Give one of them: {_names(sorted(names))}."
    if kind == "Image" and "deepzoom" in root.tag.lower():
        return f"a Deep Zoom image, whose tiles are in the folder {file.stem}_files. Export it as a tiled TIFF."
    return None


def _unreadable(head: bytes, suffix: str) -> str | None:
    kind = UNREAD_SUFFIXES.get(suffix)
    if head.startswith(_ETS):
        kind = "the pixels of an Olympus VSI"
    elif head.startswith(_OIR):
        kind = "an Olympus OIR"
    elif head.startswith(_LIF) and b"L\0e\0i\0c\0a\0" in head[:132]:
        kind = "a Leica LIF"
    elif head.startswith(_ND2):
        kind = "a Nikon ND2"
    elif head.startswith(_OLE):
        kind = kind or "a compound document of Microsoft, as some microscopes write"
    elif head.startswith(_HDF5):
        kind = kind or "an HDF5 file, as Imaris and tools that compute features write"
    return f"{kind}, which no reader here reads. {BIOFORMATS}" if kind else None


def _text(file: Path) -> str:
    with open(file, "rb") as opened:
        start = opened.read(_TEXT_BYTES)
    encoding = "utf-16" if start[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    return start.decode(encoding, "replace").replace("\r\n", "\n")


def _names(names: list[str]) -> str:
    if not names:
        return "it names none"
    shown = ", ".join(os.path.basename(name.replace("\\", "/")) for name in names[:4])
    return shown if len(names) <= 4 else f"{shown} and {len(names) - 4} more"
