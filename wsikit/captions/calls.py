"""Several images in one call of a generative captioner: how they are asked about, and how the answers are assigned.

Each answer names its image by number. Unless there is exactly one for every image, none is used, and the images are
described one by one: a text must never be assigned to another image.
"""

from __future__ import annotations

import json
import re
from typing import Any

from wsikit.captions.fields import Field
from wsikit.errors import RequestError

CALL_REVISION = 1
"""Raise it when images are asked about, or answers are read, in another way. It is part of the fingerprints."""

_FENCE = re.compile(r"^```(?:json)?[ \t]*\n(.*)\n[ \t]*```$", re.DOTALL | re.IGNORECASE)
_NUMBER = re.compile(r"^[ \t]*(?:Image[ \t]+)?(\d+)[.):][ \t]+", re.MULTILINE | re.IGNORECASE)


def check_images_per_call(number: int) -> int:
    """`number` itself; RequestError if it is below 1."""
    if number < 1:
        raise RequestError(f"images per call {number}: expected 1 or more")
    return number


def asking_of(field: Field | None, images_per_call: int) -> dict[str, Any]:
    """Part of a captioner's fingerprint; empty for single patches in calls of their own, as in older fingerprints.

    >>> asking_of(None, 1), asking_of(None, 4)
    ({}, {'call': {'images': 4, 'revision': 1}})
    """
    record: dict[str, Any] = {} if field is None else {"field": field.to_json()}
    if images_per_call > 1:
        record["call"] = {"images": images_per_call, "revision": CALL_REVISION}
    return record


def name_of_image(index: int) -> str:
    """The text before image `index`, from 0.

    >>> name_of_image(0)
    'Image 1:'
    """
    return f"Image {index + 1}:"


def joint_prompt(prompt: str, images: int) -> str:
    """The prompt for several images.

    >>> print(joint_prompt("What is seen?", 2))
    What is seen?
    These are 2 images. Answer for each image separately, with a JSON object only: {"1": "…", "2": "…"}
    """
    form = ", ".join(f'"{number}": "…"' for number in range(1, images + 1))
    return f"{prompt}\nThese are {images} images. Answer for each image separately, with a JSON object only: {{{form}}}"


def read_answers(text: str, images: int) -> list[str] | None:
    """One text per image, in their order; None unless there is exactly one for every image.

    Accepted are a JSON object with the keys "1" to "N" in any order, a JSON list of N texts, and N numbered lines or
    paragraphs in order, each alone or in a code fence. Anything before or after them makes the answer unusable.

    Examples
    --------
    >>> read_answers('{"2": "Blood.", "1": "Neuropil."}', 2)
    ['Neuropil.', 'Blood.']
    >>> read_answers("1. Neuropil.\\n2. Blood.", 2)
    ['Neuropil.', 'Blood.']
    >>> read_answers('["Neuropil.", "Blood."]', 3) is None
    True
    """
    bare = text.strip()
    fenced = _FENCE.match(bare)
    if fenced:
        bare = fenced[1].strip()
    found = _from_json(bare, images) if bare[:1] in ("{", "[") else _from_lines(bare, images)
    if found is None or len(found) != images:
        return None
    texts = [answer.strip() for answer in found]
    return texts if all(texts) else None


def _from_json(text: str, images: int) -> list[str] | None:
    try:
        found = json.loads(text, object_pairs_hook=_without_doubles)
    except (ValueError, RecursionError):
        return None
    if isinstance(found, dict):
        if set(found) != {str(number) for number in range(1, images + 1)}:
            return None
        found = [found[str(number)] for number in range(1, images + 1)]
    if not (isinstance(found, list) and all(isinstance(answer, str) for answer in found)):
        return None
    return found


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) != len(pairs):
        raise ValueError("two answers for one image")
    return dict(pairs)


def _from_lines(text: str, images: int) -> list[str] | None:
    marks = list(_NUMBER.finditer(text))
    if [int(mark[1]) for mark in marks] != list(range(1, images + 1)) or text[: marks[0].start()].strip():
        return None
    ends = [*(mark.start() for mark in marks[1:]), len(text)]
    return [text[mark.end() : end] for mark, end in zip(marks, ends, strict=True)]
