"""What a directory of a TIFF says it is: label, macro, thumbnail, or nothing. Only statements of known form count.

Free text can contain these words too: a comment about a label does not make the slide one.
"""

from __future__ import annotations

import re

import tifffile

_APERIO = re.compile(r"^(label|macro|thumbnail)\b[^|=]{0,40}$", re.IGNORECASE | re.MULTILINE)
"""The second line of an Aperio description is `label 387x463`, `macro 1280x431` or the sizes of the slide."""

_QPTIFF = re.compile(r"<ImageType>\s*(\w+)\s*</ImageType>")
_KINDS = r"(label|macro|overview|thumbnail|barcode)(?:[\s_-]?(?:image|scan|view|picture))?"
_WHOLE = re.compile(rf"(?:slide[\s_-])?{_KINDS}(?:[\s:]+\d+\s?x\s?\d+)?\W*", re.IGNORECASE)
"""A description or page name that is nothing but the kind of picture."""
_ENDING = re.compile(rf"(?:.*[\s\[(#:/_.-])?{_KINDS}[\s\])]*", re.IGNORECASE)
"""The name of an image in OME-XML, which often begins with that of a file."""
_SHORT = 80
"""Longer texts are no names, characters."""

_MEANING = {"overview": "macro", "barcode": "label"}

_PAGE_NAME, _SOURCE_LENS, _NDPI_LENSES = 285, 65421, {-1.0: "macro", -2.0: "map"}
_REDUCED, _APERIO_MACRO = 1, 9


def stated_name(page: tifffile.TiffPage) -> str | None:
    """label, macro or thumbnail if the directory says that it is one; None if it says nothing of the kind."""
    text = page.description.strip()
    if text.startswith("Aperio"):
        found = _APERIO.search(text)
        if found is not None:
            return _meaning(found.group(1))
        if " -> " in text and not page.is_tiled:
            return "thumbnail"
        # the label of older scanners has no such line, only the flag
        return _flagged(page)
    if "<PerkinElmer-QPI" in text[:400]:
        kind = _QPTIFF.search(text)
        return _meaning(kind.group(1)) if kind and kind.group(1) in ("Label", "Overview", "Thumbnail") else None
    lens = page.tags.valueof(_SOURCE_LENS)
    if isinstance(lens, float) and lens in _NDPI_LENSES:
        return _NDPI_LENSES[lens]
    for candidate in (text, str(page.tags.valueof(_PAGE_NAME) or "").strip()):
        found = _WHOLE.fullmatch(candidate)
        if found is not None:
            return _meaning(found.group(1))
    return None


def name_in(text: str) -> str | None:
    """label, macro or thumbnail if `text`, the name of an image in OME-XML, is or ends with that word.

    >>> name_in("label image"), name_in("S1.svs [macro]"), name_in("macrophages, label-free.svs")
    ('label', 'macro', None)
    """
    found = _ENDING.fullmatch(text.strip()) if len(text) <= _SHORT else None
    return _meaning(found.group(1)) if found else None


def _meaning(word: str) -> str:
    return _MEANING.get(word.lower(), word.lower())


def _flagged(page: tifffile.TiffPage) -> str | None:
    if page.is_tiled or not int(page.subfiletype) & _REDUCED:
        return None
    return "macro" if int(page.subfiletype) == _APERIO_MACRO else "label"
