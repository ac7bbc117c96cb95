"""A manifest of KidRare's neuroblastoma slides, from the published label file and a folder of converted slides.

    python examples/kidrare/manifest.py Neuroblastoma_labels.json SLIDES -o COHORT [--division dataset_division.json]

COHORT/manifest.csv has one row per slide: path, slide_id, store, label, published_label, part. With --division, the
published split, also COHORT/train.csv and COHORT/test.csv. Columns path, slide_id and mpp are for `wsikit run`; store
and label for `wsikit train`, which finds the stores of `wsikit features SLIDES -o COHORT/stores`. There is no patient
column, as the data set names no patients. See README.md next to this file.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsikit.batch.discovery import SLIDE_SUFFIXES
from wsikit.errors import RequestError
from wsikit.store.atomic import atomic_write

HERE = Path(__file__).parent
LABEL_MAP, PUBLISHED = HERE / "labels.csv", HERE / "published.json"
KEY = "Neuroblastoma"
"""Of the data set in the division file."""
TRAIN, TEST = "train", "test"
PARTS = {TRAIN: "train_IDs", TEST: "test_IDs"}
RAW = ".ibl"
_SQLITE = b"SQLite format 3\0"
"""An .ibl file is an SQLite database, whatever it is named."""
CHOICES = ("drop", "labels", "division")
COLUMNS = ("path", "slide_id", "mpp", "store", "label", "published_label", "part")


@dataclass(frozen=True)
class Published:
    """What the published files say of the slides."""

    labels: Mapping[str, str]
    """File name, as published (with .ibl), to label, in their words."""
    division: Mapping[str, tuple[str, str]]
    """File name to part (train or test) and label, in their words; empty without a division file."""

    @property
    def disagreeing(self) -> tuple[str, ...]:
        """Files whose label differs between the two, sorted."""
        return tuple(
            sorted(name for name, (_, label) in self.division.items() if self.labels.get(name, label) != label)
        )


def read_published(labels: Path, division: Path | None, known: Iterable[str]) -> Published:
    """Read the label file and, if given, the division file; `known` are the labels that are expected.

    Raises
    ------
    RequestError
        A file cannot be read, names a slide twice, has an unknown label, or the two files name different slides.
    """
    found = _json(labels)
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise RequestError(f"{labels}: expected one object of file names and labels, as in the KEEP repository")
    _check_labels(labels, found.values(), known)
    parts = {} if division is None else _division(division, known)
    if parts:
        for here, there, name in ((found, parts, labels), (parts, found, division)):
            if extra := sorted(set(here) - set(there)):
                raise RequestError(f"{name}: {_some(extra)} not in the other file; take both files of one date")
    return Published(found, parts)


def read_label_map(path: Path = LABEL_MAP) -> dict[str, str]:
    """Published label to class code."""
    with open(path, encoding="utf-8", newline="") as file:
        return {row["label"]: row["code"] for row in csv.DictReader(file)}


def find_slides(names: Iterable[str], folder: Path) -> dict[str, Path]:
    """The converted slide of each published file name, by the name without .ibl; those without any file are left out.

    Raises
    ------
    RequestError
        A slide is still an .ibl file, or has several converted files.
    """
    if not folder.is_dir():
        raise RequestError(f"{folder}: no such folder; give the folder with the converted slides")
    by_stem: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        inside = [parent for parent in path.relative_to(folder).parents if parent.suffix == ".zarr"]
        if not inside and not path.name.startswith("."):
            by_stem.setdefault(path.name.partition(".")[0], []).append(path)
    found, raw, twice = {}, [], []
    for name in names:
        files = by_stem.get(_stem(name), [])
        slides = [path for path in files if path.suffix.lower() in SLIDE_SUFFIXES and not _is_raw(path)]
        if not slides and any(_is_raw(path) for path in files):
            raw.append(name)
        elif len(slides) > 1:
            twice.append(f"{slides[0].relative_to(folder)} and {slides[1].relative_to(folder)}")
        elif slides:
            found[name] = slides[0]
    if raw:
        raise RequestError(
            f"{folder}: {_some(raw)} not converted. wsikit does not read IBL files (SQLite databases of iBingLi "
            "scanners); convert them to tiled TIFF or OME-TIFF with the pixel size, see README.md"
        )
    if twice:
        raise RequestError(f"{folder}: two files for one slide: {_some(twice)}; keep one of each")
    return found


def rows_of(published: Published, slides: Mapping[str, Path], codes: Mapping[str, str], out: Path, *,
            disagreeing: str | None = None, mpp: float | None = None) -> list[dict[str, str]]:  # fmt: skip
    """The rows of the manifest, sorted by slide.

    Parameters
    ----------
    disagreeing
        What to do with slides whose label differs between the two files: drop them, or follow labels or division.

    Raises
    ------
    RequestError
        Labels differ, and `disagreeing` is not given.
    """
    differ = published.disagreeing
    if differ and disagreeing is None:
        raise RequestError(
            f"{_some(differ)} labelled differently in the label file and in the division file. Choose: --disagreeing "
            "drop, or follow labels or division"
        )
    rows = []
    for name in sorted(slides):
        part, label = published.division.get(name, ("", published.labels[name]))
        if name in differ:
            if disagreeing == "drop":
                continue
            label = published.labels[name] if disagreeing == "labels" else label
        store = out / "stores" / f"{_stem(name)}.zarr"
        rows.append(
            {
                "path": str(slides[name].resolve()),
                "slide_id": _stem(name),
                "mpp": "" if mpp is None else f"{mpp:g}",
                "store": store.relative_to(out).as_posix(),
                "label": codes[label],
                "published_label": label,
                "part": part,
            }
        )
    return rows


def rows_hash(rows: Mapping[str, str]) -> str:
    """sha256 over the sorted lines "file<tab>label"; independent of the layout of a file."""
    return hashlib.sha256("".join(f"{name}\t{rows[name]}\n" for name in sorted(rows)).encode()).hexdigest()


def compared(published: Published) -> list[str]:
    """How the files compare with those that published.json records, one sentence each."""
    record = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    same = rows_hash(published.labels) == record["labels"]["rows_sha256"]
    lines = [_said("label file", len(published.labels), same, record["labels"]["commit"])]
    for part in PARTS if published.division else ():
        rows = {name: label for name, (own, label) in published.division.items() if own == part}
        same = rows_hash(rows) == record["division"][part]["rows_sha256"]
        lines.append(_said(f"{part} part", len(rows), same, record["division"]["commit"]))
    return lines


def build(options: argparse.Namespace) -> list[str]:
    """Write the manifests; the lines to print."""
    codes = read_label_map()
    published = read_published(options.labels, options.division, codes)
    slides = find_slides(published.labels, options.slides)
    missing = sorted(set(published.labels) - set(slides))
    if missing and not options.partial:
        raise RequestError(
            f"{options.slides}: {_some(missing)} missing. Download and convert them, or give --partial to go on with "
            f"the other {len(slides)}"
        )
    rows = rows_of(published, slides, codes, options.out, disagreeing=options.disagreeing, mpp=options.mpp)
    if not rows:
        raise RequestError(f"{options.slides}: none of the {len(published.labels)} slides of {options.labels} is there")
    options.out.mkdir(parents=True, exist_ok=True)
    tables = {"manifest": rows}
    if published.division:
        tables |= {part: [row for row in rows if row["part"] == part] for part in PARTS}
    for name, table in tables.items():
        with (
            atomic_write(options.out / f"{name}.csv") as partial,
            open(partial, "w", newline="", encoding="utf-8") as f,
        ):
            writer = csv.DictWriter(f, COLUMNS)
            writer.writeheader()
            writer.writerows(table)
    counts = Counter(row["label"] for row in rows)
    lines = compared(published)
    lines.append(f"{options.out / 'manifest.csv'}: {len(rows)} slides: " + _counted(counts, codes))
    if left := len(published.labels) - len(rows):
        lines.append(f"left out: {left} slides ({len(missing)} missing, {left - len(missing)} labelled differently)")
    return lines


def _division(path: Path, known: Iterable[str]) -> dict[str, tuple[str, str]]:
    data = _json(path)
    own = data.get(KEY) if isinstance(data, dict) else None
    if not isinstance(own, dict) or not {*PARTS.values(), "name2label"} <= set(own):
        raise RequestError(f"{path}: no {KEY!r} with {', '.join(PARTS.values())} and name2label")
    names = {str(number): label for label, number in own["name2label"].items()}
    _check_labels(path, names.values(), known)
    found: dict[str, tuple[str, str]] = {}
    for part, key in PARTS.items():
        for number, slides in own[key].items():
            if number not in names:
                raise RequestError(f"{path}: {key} has the class {number}, name2label has {', '.join(names)}")
            for name in slides:
                if name in found:
                    raise RequestError(f"{path}: {name} twice, in {found[name][0]} and {part}; a slide has one part")
                found[name] = part, names[number]
    return found


def _json(path: Path) -> Any:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        twice = [name for name, n in Counter(name for name, _ in pairs).items() if n > 1]
        if twice:  # of two equal names JSON keeps the last, silently
            raise RequestError(f"{path}: {_some(twice)} named twice; keep one entry of each")
        return dict(pairs)

    try:
        return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=once)
    except (OSError, ValueError) as error:
        raise RequestError(f"{path}: cannot be read as JSON ({error}); download the raw file again") from None


def _check_labels(path: Path, labels: Iterable[str], known: Iterable[str]) -> None:
    if unknown := sorted(set(labels) - set(known)):
        raise RequestError(
            f"{path}: unknown label {unknown[0]!r}; {LABEL_MAP.name} has {'; '.join(known)}. Is this the file of "
            "another tumour? Else add the label to that table"
        )


def _is_raw(path: Path) -> bool:
    if path.suffix.lower() == RAW:
        return True
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        return file.read(len(_SQLITE)) == _SQLITE


def _stem(name: str) -> str:
    return name.removesuffix(RAW)


def _some(names: Iterable[str], shown: int = 3) -> str:
    """The first few names, and the verb.

    >>> _some(["a", "b", "c", "d"]), _some(["a"])
    ('4 (a, b, c, …) are', 'a is')
    """
    listed = list(names)
    if len(listed) == 1:
        return f"{listed[0]} is"
    return f"{len(listed)} ({', '.join(listed[:shown])}{', …' * (len(listed) > shown)}) are"


def _said(what: str, n: int, same: bool, commit: str) -> str:
    return f"{what}: {n} slides, " + (f"as published ({commit[:7]})" if same else f"NOT those of commit {commit[:7]}")


def _counted(counts: Mapping[str, int], codes: Mapping[str, str]) -> str:
    return ", ".join(f"{counts.get(code, 0)} {code}" for code in codes.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("labels", type=Path, help="Neuroblastoma_labels.json")
    parser.add_argument("slides", type=Path, help="folder of converted slides")
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder for the manifests")
    parser.add_argument("--division", type=Path, help="dataset_division.json, the published split")
    parser.add_argument("--disagreeing", choices=CHOICES, help="slides labelled differently in both files")
    parser.add_argument("--mpp", type=float, help="µm/px at level 0 of all slides, if the converted files state none")
    parser.add_argument("--partial", action="store_true", help="go on without the slides that are missing")
    try:
        print("\n".join(build(parser.parse_args())))
    except RequestError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
