"""Files of text with impossible values at any entry: a valid result, or one error of wsikit in one line.

`WSIKIT_FUZZ_CHANGES=5000 pytest tests/test_hostile_records.py` tries nearly every value at every entry.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.json_changes import DELETED, changed, places
from wsikit.batch.index import write_index
from wsikit.batch.manifest import find_slides
from wsikit.batch.records import SlideRow, read_rows, write_row, write_table
from wsikit.encoders.packaged import describe_own, load_own, own_folder
from wsikit.errors import WsikitError
from wsikit.models.concept_criteria import read_criteria
from wsikit.models.config import DEFAULT_MODEL, packaged_folder
from wsikit.models.registry import describe_model, load_patch_model
from wsikit.models.zeroshot import read_zeroshot
from wsikit.tiling.roi import read_regions, read_roi

SEED = int(os.environ.get("WSIKIT_FUZZ_SEED", "0"))
CHANGES = int(os.environ.get("WSIKIT_FUZZ_CHANGES", "60"))
"""Per kind of file."""

DEEP: Any = 0
for _ in range(300):
    DEEP = [DEEP]
VALUES: tuple[Any, ...] = (
    DELETED, None, "", "text", "=1+1", "<script>alert(1)</script>", "../../x", "/etc/passwd", "a\nb", "\x00",
    "\x1b[31m", "\u202ecod", "\ud800", "x" * 100_000, 0, -5, 0.5, 10**9, 10**30, 1e308, -1e308, float("nan"),
    float("inf"), [], {}, [None], [[]], True, DEEP,
)  # fmt: skip


def try_all(path: Path, record: Any, use: Callable[[], object], changes: int = CHANGES) -> None:
    """Put values at entries of the JSON file at `path`, and use it."""
    wrong: list[str] = []
    use_count = 0
    path.write_text(json.dumps(record), encoding="utf-8")
    use()  # as it was; libraries are imported
    every = [(place, value) for place in places(record) for value in VALUES]
    chosen = np.random.default_rng(SEED).permutation(len(every))[:changes]
    for place, value in (every[index] for index in chosen):
        path.write_text(json.dumps(changed(record, place, value)), encoding="utf-8")
        said = f"{'.'.join(map(str, place))} = {'deleted' if value is DELETED else repr(value)[:60]}"
        begun = time.perf_counter()
        try:
            use()
        except WsikitError as error:
            if not str(error).replace("\xa0", " ").isprintable() or len(str(error)) > 2000:
                wrong.append(f"{said}: {len(str(error))} characters: {str(error)[:300]}")
        except Exception as error:
            wrong.append(f"{said}: {type(error).__name__}: {str(error)[:200]}")
        if time.perf_counter() - begun > 20:
            wrong.append(f"{said}: {time.perf_counter() - begun:.0f} s")
        use_count += 1
    print(f"{path.name}: {use_count} changes")
    assert not wrong, f"{len(wrong)} of {use_count}:\n" + "\n".join(wrong[:40])


def square(x: float, y: float, side: float = 100) -> list[list[float]]:
    return [[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]


def test_regions_of_geojson(tmp_path: Path):
    properties = {"objectType": "annotation", "name": "a", "classification": {"name": "PD", "color": [255, 0, 0]}}
    record = {
        "type": "FeatureCollection",
        "features": [
            {
                "type": "Feature",
                "id": "PathAnnotationObject",
                "geometry": {"type": "Polygon", "coordinates": [square(0, 0)]},
                "properties": properties,
            },
            {
                "type": "Feature",
                "geometry": {"type": "MultiPolygon", "coordinates": [[square(200, 0), square(210, 10, 20)]]},
                "properties": {"classification": "D", "metadata": {"a": 1}},
            },
        ],
    }
    path = tmp_path / "r.geojson"
    try_all(path, record, lambda: (read_roi(path), read_regions(path, on_note=lambda note: None)), 3 * CHANGES)


def test_criteria_and_classes_by_words(tmp_path: Path):
    criteria = read_criteria("inpc").only(["neuropil", "differentiation"]).model_dump(mode="json")
    path = tmp_path / "c.json"
    try_all(path, criteria, lambda: read_criteria(str(path)))
    record = {"name": "z", "classes": {"PD": {"prompts": ["neuropil"], "name": "poor"}, "D": {"concept": "ganglion"}}}
    record |= {"templates": ["{}"], "temperature": 0.1, "mpp": 0.5, "patch_px": 224}  # type: ignore[dict-item]
    try_all(path, record, lambda: read_zeroshot(path))


@pytest.mark.parametrize("name", [DEFAULT_MODEL, "phantom-concepts"])
def test_the_configuration_of_a_model(name: str, tmp_path: Path):
    folder = shutil.copytree(packaged_folder(name), tmp_path / "model")
    record = json.loads((folder / "config.json").read_text())
    try_all(folder / "config.json", record, lambda: describe_model(folder), 2 * CHANGES)
    try_all(folder / "config.json", record, lambda: load_patch_model(folder, device="cpu"), CHANGES // 3)


def test_the_configuration_of_an_encoder(tmp_path: Path):
    packaged = own_folder("phantom-afloc")
    assert packaged is not None
    folder = shutil.copytree(packaged, tmp_path / "model")
    record = json.loads((folder / "config.json").read_text())
    record_of = {name: value for name, value in record.items() if name != "terms"}
    try_all(folder / "config.json", record_of, lambda: describe_own(folder), CHANGES)
    try_all(folder / "config.json", record_of, lambda: load_own(folder, device="cpu"), CHANGES // 3)


def test_the_row_of_a_slide(tmp_path: Path):
    row = SlideRow("s", "s.tiff", "done", "PD", {"PD": 0.9, "D": 0.1}, 0.8, False, None, 5, 1.0, 0.0, 0.5, 0.5, "file")
    write_row(tmp_path, row)
    path = tmp_path / "results" / "s" / "row.json"

    def use() -> None:
        rows = read_rows(tmp_path)
        write_table(tmp_path, rows)
        write_index(tmp_path, rows)

    try_all(path, json.loads(path.read_text()), use, 3 * CHANGES)


def test_the_cells_of_a_manifest(tmp_path: Path):
    (tmp_path / "a.svs").touch()
    plain = {"path": "a.svs", "slide_id": "a", "patient": "p", "mpp": "0.5", "scene": "0", "roi": "r.geojson",
             "reader": "tiff", "label": "PD"}  # fmt: skip
    wrong: list[str] = []
    texts = [value for value in VALUES if isinstance(value, str) and value != "\ud800"] + [
        "nan", "inf", "-1", "1e999", "0x10", "٣", "𝟓", "CON", ".", "..", "~", "a/b", "a\\b", "file:///x", "http://x/y",
    ]  # fmt: skip
    path = tmp_path / "m.csv"
    for name in plain:
        for text in texts:
            with open(path, "w", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, list(plain))
                writer.writeheader()
                writer.writerow(plain | {name: text})
            try:
                for entry in find_slides([], manifests=[path]).entries:
                    if set(entry.slide_id) & set("/\\\0\n\x1b<>") or entry.slide_id.startswith("."):
                        wrong.append(f"{name} = {text[:30]!r}: id {entry.slide_id[:40]!r}")
            except WsikitError as error:
                if "\n" in str(error):
                    wrong.append(f"{name} = {text[:30]!r}: {error}")
            except Exception as error:
                wrong.append(f"{name} = {text[:30]!r}: {type(error).__name__}: {error}")
    assert not wrong, "\n".join(wrong)
