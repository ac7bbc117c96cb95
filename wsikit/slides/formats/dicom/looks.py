"""Whether a file may be DICOM, by its first bytes."""

from __future__ import annotations

from pathlib import Path

HEAD_BYTES = 140
"""First bytes of a file that are needed."""


def has_preamble(head: bytes) -> bool:
    """Whether the first bytes of a file are those of DICOM's file format (PS3.10)."""
    return head[128:132] == b"DICM"


def looks_like_dicom(head: bytes) -> bool:
    """Whether the first bytes of a file are a DICOM file, with its preamble or without.

    Without it, the first element is of group 2 or 8, with a type in two letters or a short even length.
    """
    if has_preamble(head):
        return True
    if head[:2] not in (b"\x02\0", b"\x08\0", b"\0\x08") or len(head) < 16:
        return False
    little = head[0] != 0
    element = int.from_bytes(head[2:4], "little" if little else "big")
    if element > 0x0100:
        return False
    if head[4:6] in (b"UL", b"UI", b"CS", b"OB", b"DA", b"TM", b"SH", b"LO"):
        return True
    length = int.from_bytes(head[4:8], "little")
    return little and length % 2 == 0 and (length == 4 if element == 0 else 0 < length <= 64 and 4 < element < 0x20)


def is_unnamed_dicom(path: Path) -> bool:
    """Whether a file is part of a DICOM slide and not named as one: IM0001, or a UID, as archives and CDs name them."""
    suffix = path.suffix.lower()
    if (suffix and not suffix[1:].isdigit() and suffix not in (".dicom", ".ima")) or not path.is_file():
        return False
    try:
        with open(path, "rb") as file:
            if not has_preamble(file.read(HEAD_BYTES)):
                return False
    except OSError:
        return False
    from wsikit.slides.formats.dicom.header import read_header
    from wsikit.slides.formats.dicom.kinds import is_slide_class

    header = read_header(str(path))
    return header is not None and is_slide_class(header.sop_class)
