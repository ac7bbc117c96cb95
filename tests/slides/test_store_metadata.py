"""Metadata of a store that make no sense are one error, in one line, with the file and the next step."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.json_changes import DELETED, changed, places
from wsikit.cli.main import main
from wsikit.errors import ScaleError, StoreError
from wsikit.slides.registry import open_slide
from wsikit.slides.store import SlideStore
from wsikit.tiling.plan import ImageParameters
from wsikit.tiling.tile import tile
from wsikit.tiling.verify import verify

VALUES: tuple[Any, ...] = (
    None,
    "string",
    "",
    0,
    -5,
    1_000_000_000,
    10**30,
    0.5,
    float("nan"),
    float("inf"),
    [],
    {},
    True,
)

SEED = int(os.environ.get("WSIKIT_FUZZ_SEED", "0"))
CHANGES = int(os.environ.get("WSIKIT_FUZZ_CHANGES", "60"))
"""Per file; 10000 tries every value at every entry."""

FREE_TEXT = {
    "slide_id",
    "mpp_source",
    "name",
    "vendor",
    "reader",
    "compression",
    "fingerprint",
    "place",
    "digest",
    "path",
}
"""Entries where any text is possible."""

NUMBERS = {"magnification", "mpp", "revision", "bytes", "lossless", "recoded_tiles", "missing_tiles", "source_level"}
"""Entries where another number or another truth value can be right."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small store with two levels, tissue, and a patch table."""
    import tifffile

    folder = tmp_path_factory.mktemp("metadata")
    y, x = np.mgrid[:520, :600]
    pixels = np.full((520, 600, 3), 243, np.uint8)
    pixels[(x - 300) ** 2 + (y - 260) ** 2 < 200**2] = (190, 110, 170)
    options: dict[str, Any] = {"tile": (128, 128), "compression": "deflate", "metadata": None}
    with tifffile.TiffWriter(folder / "s.tiff") as writer:
        writer.write(pixels, photometric="rgb", resolution=(20_000, 20_000), resolutionunit="CENTIMETER", **options)
        writer.write(pixels[::2, ::2], photometric="rgb", subfiletype=1, **options)
    image = ImageParameters(tile_px=64, chunks_per_shard=4)
    return tile(folder / "s.tiff", folder / "s.zarr", patch_px=64, image=image).folder


def _use(folder: Path) -> list[Any]:
    """All that is read of a store, for comparison."""
    with SlideStore(folder) as store:
        mask, downsample = store.tissue()
        found: list[Any] = [store.dimensions, store.level_dimensions, store.level_downsamples, store.mpp]
        for level, (width, height) in enumerate(store.level_dimensions):
            assert store.level_format(level).tile_px == store.tile_px(level)
            found.append(store.read_box(level, (0, 0, width, height)).sum())
        table = store.patches()
        found += [mask.sum(), downsample, store.tissue_record()["stain"], len(table), table.coords.sum(), table.grid]
        found += [store.findings().keys(), store.unreadable_tiles, store.damaged_files(), store.info.associated]
        return found


@pytest.mark.parametrize(
    "name",
    [
        "zarr.json",
        "0/zarr.json",
        "1/zarr.json",
        "labels/tissue/zarr.json",
        "labels/tissue/0/zarr.json",
        "wsikit/zarr.json",
    ]
    + ["patches/0.5um_64px/zarr.json", "patches/0.5um_64px/coords/zarr.json", "patches/0.5um_64px/tissue/zarr.json"],
)
def test_any_change_of_an_entry_is_a_store_error_or_changes_nothing(store: Path, name: str) -> None:
    path = store / name
    text = path.read_text(encoding="utf-8")
    record, whole = json.loads(text), _use(store)
    wrong: list[str] = []
    entries = [place for place in places(record) if "ome" not in place and "parameters" not in place]
    changes = [(place, value) for place in entries for value in (DELETED, *VALUES)]
    chosen = np.random.default_rng(SEED).permutation(len(changes))[:CHANGES]
    try:
        for place, value in (changes[index] for index in chosen):
            path.write_text(json.dumps(changed(record, place, value)), encoding="utf-8")
            said = f"{'.'.join(map(str, place))} = {'deleted' if value is DELETED else value}"
            try:
                found = _use(store)
            except StoreError as error:
                if "\n" in str(error) or len(str(error)) > 600:
                    wrong.append(f"{said}: {error}")
            except ScaleError:
                if place[-1] != "mpp" or value not in (None, DELETED):  # a store may have no pixel size
                    wrong.append(f"{said}: ScaleError")
            except Exception as error:
                wrong.append(f"{said}: {type(error).__name__}: {error}")
            else:
                if found != whole and not FREE_TEXT & set(place) and not NUMBERS & set(place):
                    wrong.append(f"{said}: read as another store")
    finally:
        path.write_text(text, encoding="utf-8")
    assert not wrong, f"{len(wrong)}: " + "\n".join(wrong[:40])


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "3", '"text"', "{}", '{"attributes": []}', "[" * 100_000])
@pytest.mark.parametrize("name", ["zarr.json", "0/zarr.json"])
def test_a_file_that_is_no_metadata_is_one_line(
    store: Path, name: str, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = store / name
    text = path.read_text(encoding="utf-8")
    try:
        path.write_text(content, encoding="utf-8")
        for opening in (SlideStore, open_slide, verify):
            with pytest.raises(StoreError, match="tile|slide"):
                opening(store)  # type: ignore[operator]
        with pytest.raises(SystemExit) as ended:
            main(["info", str(store)])
        assert ended.value.code == 1
        assert capsys.readouterr().err.count("\n") == 1
    finally:
        path.write_text(text, encoding="utf-8")


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        (("attributes", "wsikit", "dimensions"), [0, 520]),
        (("attributes", "wsikit", "dimensions"), [600, -5]),
        (("attributes", "wsikit", "dimensions"), [10**9, 10**9]),
        (("attributes", "wsikit", "dimensions"), [1200, 1040]),
        (("attributes", "wsikit", "mpp"), [0, 0.5]),
        (("attributes", "wsikit", "mpp"), [float("nan"), 0.5]),
        (("attributes", "wsikit", "mpp"), [-0.5, -0.5]),
        (("attributes", "wsikit", "downsamples"), [[2.0, 2.0], [1.0, 1.0]]),
        (("attributes", "wsikit", "downsamples"), [[1.0, 1.0]] * 3),
    ],
)
def test_sizes_and_scales_that_cannot_be_are_refused_by_every_verb(
    store: Path, entry: tuple[str, ...], value: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = store / "zarr.json"
    text = path.read_text(encoding="utf-8")
    try:
        path.write_text(json.dumps(changed(json.loads(text), entry, value)), encoding="utf-8")
        verbs: list[Callable[[], Any]] = [
            lambda: main(["info", str(store)]),
            lambda: main(["verify", str(store)]),
            lambda: main(["caption", str(store)]),
            lambda: main(["tile", str(store), "-o", str(tmp_path / "again.zarr")]),
        ]
        for verb in verbs:
            with pytest.raises(SystemExit) as ended:
                verb()
            assert ended.value.code == 1
            said = capsys.readouterr().err
            assert str(store) in said
            assert "Traceback" not in said
    finally:
        path.write_text(text, encoding="utf-8")
