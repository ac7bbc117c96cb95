"""The package and its texts are written in plain English: a list of words that stay out, each with the one to use.

A reader whose English is learned from papers must understand each sentence at the first reading. The words below were
found to stop such readers. They are searched in code, comments, docstrings, messages and documentation.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

EXEMPT: tuple[str, ...] = ()
"""Files and folders that are still to be rewritten. Shall become empty."""

PLACES = (
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "docs",
    "notebooks",
    "pipelines",
    "tests",
    "wsikit",
)
KINDS = {".py", ".md", ".html", ".js", ".css", ".yaml", ".svg", ".ipynb"}
LEFT_OUT = ("wsikit/exporters/vendor", "tests/test_language.py")
"""Code of others, and the list itself."""

BANNED = {
    "whence": "its source",
    "thence": "from there",
    "hence": "therefore, so",
    "wherein": "in which",
    "thereof": "of it",
    "lest": "so that … not",
    "anew": "again",
    "nobody": "no one, none",
    "nobodys": "has no owner, has no patient ID",
    "somebody": "a user, a person",
    "told": "given, reported, stated",
    "feign": "imitate, underestimate",
    "feigns": "imitates",
    "feigned": "simulated",
    "mend": "repair, fix",
    "mends": "repairs, fixes",
    "mended": "repaired, fixed",
    "foreign": "of another tool, external, unsupported",
    "honesty": "control condition, sanity check",
    "stranger": "reader, other user",
    "strangers": "readers, other users",
    "crew": "pool",
    "of its own mind": "independent",
    "of one mind": "fully correlated",
    "settle": "fit, decide, set",
    "settles": "fits, decides, sets",
    "settled": "fitted, decided, set",
    "says no": "refuses, is False",
    "stand for": "mean, represent",
    "stands for": "means, represents",
    "standing still": "frozen",
    "stand still": "are frozen",
    "stands still": "is frozen",
    "put together": "aggregate",
    "without a word": "silently",
    "has no say": "is not used",
    "as it were": "(leave out)",
    "novel": "out-of-distribution",
    "novelty": "out-of-distribution, ood_score",
    "voice": "vote, weight",
    "voices": "votes, weights",
    "remembers": "caches, stores",
    "the look": "appearance, features",
    "the looks": "appearance, features",
    "a look": "appearance, features",
    "its look": "appearance, features",
    "look of": "appearance of, features of",
    "looks of": "appearance of, features of",
    "kin": "similar, related",
    "dear": "expensive",
    "dearer": "more expensive",
    "dearest": "most expensive",
    "beside": "next to, with, compared with",
}  # fmt: skip

STORED_NAMES = {"novelty.safetensors", "novel_share", "max_novel", '"novelty"', "`novelty`"}
"""Names in files that earlier versions wrote: the model's file, and the columns of store format 2."""

_WORDS = re.compile(
    "|".join(
        rf"(?<![A-Za-z]){word.replace(' ', '[ _]')}(?![A-Za-z])" for word in sorted(BANNED, key=len, reverse=True)
    ),
    re.IGNORECASE,
)


def findings(line: str) -> list[tuple[str, str]]:
    """Banned words of a line, each with what to write. Parts of identifiers count: look_of, DecodeCrew.

    >>> findings("def look_of(patch): ...")
    [('look of', 'appearance of, features of')]
    >>> findings("the table is complete")
    []
    """
    for name in STORED_NAMES:
        line = line.replace(name, "")
    line = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", line)
    found = (match.group().lower().replace("_", " ") for match in _WORDS.finditer(line))
    return [(word, BANNED[word]) for word in found]


def files() -> Iterator[Path]:
    for place in PLACES:
        path = ROOT / place
        candidates = sorted(path.rglob("*")) if path.is_dir() else [path] if path.is_file() else []
        for file in candidates:
            name = file.relative_to(ROOT).as_posix()
            if file.suffix in KINDS and not name.startswith((*LEFT_OUT, *EXEMPT)) and "__pycache__" not in name:
                yield file


def lines_of(file: Path) -> list[str]:
    """What people read of a file; of a notebook its cells without their outputs."""
    text = file.read_text(encoding="utf-8")
    if file.suffix != ".ipynb":
        return text.splitlines()
    return [line for cell in json.loads(text)["cells"] for line in "".join(cell["source"]).splitlines()]


def test_no_text_uses_a_word_that_stops_readers() -> None:
    bad = [
        f"{file.relative_to(ROOT)}:{number}: {word!r} → {better}"
        for file in files()
        for number, line in enumerate(lines_of(file), 1)
        for word, better in findings(line)
    ]
    assert not bad, f"{len(bad)} banned words:\n" + "\n".join(bad)


def test_every_exempt_place_exists() -> None:
    assert [name for name in EXEMPT if not (ROOT / name).exists()] == []


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("_told_of_truncation = True", ["told"]),
        ("class DecodeCrew:", ["crew"]),
        ("Whence it came, nobody said", ["whence", "nobody"]),
        ("mpp_source: where the pixel size comes from", []),
        ("the file novelty.safetensors", []),
        ("a novelty of this tissue", ["novelty"]),
        ("besides, invoice and akin are other words", []),
    ],
)
def test_words_are_found_in_text_and_in_names(line: str, words: list[str]) -> None:
    assert [word for word, _ in findings(line)] == words
