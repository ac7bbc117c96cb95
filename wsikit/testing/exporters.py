"""Conformance checks of an exporter, for the tests of a plug-in. wsikit's own formats pass the same checks."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.errors import WsikitError
from wsikit.inference.vote import vote
from wsikit.results.formats import OPTIONS, OWN_FORMATS, Exporter, Format, load_exporter, options_of, write_output
from wsikit.results.load import StoredResults
from wsikit.slides.store import SlideStore
from wsikit.store.receipts import Receipt
from wsikit.store.table import ColumnSpec, PatchTable
from wsikit.tiling.tile import tile
from wsikit.voting.parameters import VoteParameters

CLASSES = ("UD", "PD", "D", "other")
MPP = 0.5
_SIDE_PX = 512
_INTERRUPTIONS = 2


def check_exporter(exporter: Exporter | type | str, **options: Any) -> None:
    """Raise AssertionError unless `exporter` keeps the contract of `wsikit.results.formats`.

    The exporter writes the results of a small synthetic slide several times: with predictions, without predictions and
    with an empty patch table. It is checked that it writes one file or one folder and nothing else; that equal input
    gives equal bytes; that nothing incomplete is left when reading fails midway and that an older file is then kept;
    that it fails only with a WsikitError; and that the store is not changed.

    Parameters
    ----------
    exporter
        The exporter, its class, or the name of an installed format.
    options
        Options of `wsikit.export` to write with.

    >>> check_exporter("csv")
    """
    found = load_exporter(exporter) if isinstance(exporter, str) else exporter
    checked: Exporter = found() if isinstance(found, type) else found
    _check_declaration(checked)
    with tempfile.TemporaryDirectory(prefix="wsikit-check-") as folder, _fixed_time():
        stores = make_stores(Path(folder) / "stores")
        before = _contents(Path(folder) / "stores")
        n_reads = _check_result(checked, stores["predicted"], Path(folder) / "out", options)
        _check_interrupted(checked, stores["predicted"], Path(folder) / "interrupted", options, n_reads)
        for kind in ("unpredicted", "empty"):
            _check_refusal(checked, stores[kind], Path(folder) / kind, options)
        changed = sorted(set(before.items()) ^ set(_contents(Path(folder) / "stores").items()))
        assert not changed, f"{checked.name}: exporting changed the store: {changed[0][0]}"


def make_stores(folder: Path) -> dict[str, Path]:
    """Three small stores below `folder`: "predicted" (with captions, features and a vote), "unpredicted" and "empty".

    "empty" has predictions and a patch table without rows.
    """
    slide = _write_slide(folder / "check.tif", tissue=True)
    glass = _write_slide(folder / "glass.tif", tissue=False)
    found = {}
    for kind, source in (("predicted", slide), ("unpredicted", slide), ("empty", glass)):
        path = folder / f"{kind}.zarr"
        with tile(source, path, mpp=2 * MPP, patch_px=32) as store:
            if kind != "unpredicted":
                _predict(store)
        found[kind] = path
    return found


def _check_declaration(exporter: Exporter) -> None:
    name = getattr(exporter, "name", None)
    is_word = isinstance(name, str) and bool(name) and not set(name) & set(" \t\n/\\")
    assert is_word, f"{exporter!r}: `name` must be a word that users type after --to; it is {name!r}"
    assert isinstance(exporter, Format) or name not in OWN_FORMATS, f"{name}: a format of wsikit has this name"
    assert isinstance(getattr(exporter, "folder", None), bool), f"{name}: `folder` must be True or False"
    assert callable(getattr(exporter, "write", None)), f"{name}: `write(results, path, **options)` is missing"
    unknown = sorted(set(options_of(exporter)) - set(OPTIONS))
    assert not unknown, f"{name}: wsikit.export has no options {unknown}; it has {', '.join(OPTIONS)}"


def _check_result(exporter: Exporter, store: Path, folder: Path, options: dict[str, Any]) -> int:
    """Check files and determinism; the number of reads of store and table."""
    target, written = folder / _name(exporter), []
    folder.mkdir()
    counter = _Reads()
    for _ in range(2):
        counter = _Reads()
        write_output(exporter, counter.results(store), target, options)
        assert target.exists(), f"{exporter.name}: wrote nothing to the path that it was given"
        kind = "folder" if exporter.folder else "file"
        assert target.is_dir() == exporter.folder, f"{exporter.name}: declares a {kind} and wrote something else"
        others = sorted(path.name for path in folder.iterdir() if path != target)
        assert not others, f"{exporter.name}: wrote next to its path: {', '.join(others)}"
        contents = _contents(target)
        assert contents, f"{exporter.name}: the folder that it wrote is empty"
        written.append(contents)
        shutil.rmtree(target) if exporter.folder else target.unlink()
    different = sorted(name for name in written[0] if written[0][name] != written[1].get(name))
    assert written[0] == written[1], f"{exporter.name}: equal input gave different bytes: {different or 'other files'}"
    return counter.count


def _check_interrupted(exporter: Exporter, store: Path, folder: Path, options: dict[str, Any], n_reads: int) -> None:
    target, old = folder / _name(exporter), b"an older file"
    for number in range(1, _INTERRUPTIONS + 1):
        folder.mkdir(exist_ok=True)
        if not exporter.folder:
            target.write_bytes(old)
        counter = _Reads(stop_at=max(1, n_reads * number // _INTERRUPTIONS))
        try:
            write_output(exporter, counter.results(store), target, options)
        except _Interrupted:
            left = [path for path in folder.rglob("*") if path.is_file() and path != target]
            assert not left, f"{exporter.name}: interrupted, it left {left[0].name}"
            if not exporter.folder:
                assert target.read_bytes() == old, f"{exporter.name}: interrupted, it overwrote the file that was there"
        shutil.rmtree(folder)


def _check_refusal(exporter: Exporter, store: Path, folder: Path, options: dict[str, Any]) -> None:
    """Results without predictions or patches are written, or refused with a WsikitError and nothing left."""
    folder.mkdir()
    target = folder / _name(exporter)
    try:
        write_output(exporter, StoredResults(SlideStore(store)), target, options)
    except WsikitError:
        left = [path for path in folder.rglob("*") if path.is_file()]
        assert not left, f"{exporter.name}: refused {folder.name} results and left {left[0].name}"
    else:
        assert target.exists(), f"{exporter.name}: wrote nothing of {folder.name} results and raised no error"


def _name(exporter: Exporter) -> str:
    return "out" if exporter.folder else "out.bin"


class _Interrupted(BaseException):
    """Raised in the middle of an export."""


class _Reads:
    """Counts the reads of a store and its table, and interrupts at one of them."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.count = 0
        self._stop_at = stop_at

    def results(self, path: Path) -> StoredResults:
        opened = _counting(SlideStore, ("read_region", "thumbnail", "chunk", "tile", "tissue_record"), self)(path)
        opened.patches = self._patches(opened)
        return StoredResults(opened)

    def tick(self) -> None:
        self.count += 1
        if self.count == self._stop_at:
            raise _Interrupted

    def _patches(self, store: SlideStore) -> Callable[[str | None], PatchTable]:
        counting_table = _counting(PatchTable, ("read", "columns", "attributes"), self)

        def patches(grid: str | None = None) -> PatchTable:
            table: PatchTable = counting_table(store.folder / "patches" / (grid or store.grids()[0]))
            return table

        return patches


def _counting(base: type, methods: tuple[str, ...], counter: _Reads) -> Any:
    """A subclass of `base` whose `methods` are counted."""

    def counted(name: str) -> Callable[..., Any]:
        original = getattr(base, name)

        def method(self: Any, *arguments: Any, **options: Any) -> Any:
            counter.tick()
            return original(self, *arguments, **options)

        return method

    return type(base.__name__, (base,), {name: counted(name) for name in methods})


@contextlib.contextmanager
def _fixed_time() -> Iterator[None]:
    """With a fixed SOURCE_DATE_EPOCH, which replaces the clock in files that state their time."""
    before = os.environ.get("SOURCE_DATE_EPOCH")
    os.environ["SOURCE_DATE_EPOCH"] = "1700000000"
    try:
        yield
    finally:
        del os.environ["SOURCE_DATE_EPOCH"]
        if before is not None:
            os.environ["SOURCE_DATE_EPOCH"] = before


def _contents(path: Path) -> dict[str, str]:
    """Relative path and SHA-256 of every file."""
    files = [path] if path.is_file() else sorted(one for one in path.rglob("*") if one.is_file())
    return {str(one.relative_to(path)): hashlib.sha256(one.read_bytes()).hexdigest() for one in files}


def _write_slide(path: Path, *, tissue: bool) -> Path:
    """A tiled TIFF of `_SIDE_PX` px at `MPP` µm/px: a pink disc on glass, or glass only."""
    import tifffile

    rng = np.random.default_rng(0)
    pixels: npt.NDArray[np.uint8] = np.full((_SIDE_PX, _SIDE_PX, 3), 243, np.uint8)
    if tissue:
        y, x = np.mgrid[:_SIDE_PX, :_SIDE_PX]
        disc = (x - _SIDE_PX / 2) ** 2 + (y - _SIDE_PX / 2) ** 2 < (0.4 * _SIDE_PX) ** 2
        pixels[disc] = np.array([214, 150, 190]) + rng.integers(-12, 13, size=(int(disc.sum()), 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    resolution = (1e4 / MPP, 1e4 / MPP)
    with tifffile.TiffWriter(path) as writer:
        writer.write(
            pixels,
            tile=(128, 128),
            compression="deflate",
            photometric="rgb",
            resolution=resolution,
            resolutionunit="CENTIMETER",
            metadata=None,
        )
    return path


def _predict(store: SlideStore) -> None:
    """Columns of captions, features and predictions, made up, and their vote; row 0 has no prediction."""
    table, rng = store.patches(), np.random.default_rng(1)
    n = len(table)
    probs = rng.dirichlet(np.ones(len(CLASSES)), n).astype(np.float32)
    gate = rng.uniform(0, 1, n).astype(np.float32)
    probs[:1], gate[:1] = np.nan, np.nan
    captions = np.asarray([f"caption {row}" for row in range(n)], dtype=object)
    captions[1:2] = "=1+1"
    facts = np.stack([rng.uniform(1000, 9000, n), rng.uniform(0, 1, n)], axis=1).astype(np.float32)
    model = {
        "name": "check",
        "version": "1",
        "fingerprint": "0",
        "class_names": ["undifferentiated", "poorly differentiated", "differentiating", "other tissue"],
        "colors": ["#d55e00", "#f0e442", "#0072b2", "#8c8c8c"],
        "background": ["other"],
        "notice": "made up",
    }
    columns: list[tuple[ColumnSpec, npt.NDArray[Any]]] = [
        (ColumnSpec("probability", "float32", len(CLASSES), {"names": list(CLASSES), "model": model}), probs),
        (ColumnSpec("gate", "float32"), gate),
        (ColumnSpec("ood_score", "float32"), rng.uniform(0, 1.5, n).astype(np.float32)),
        (ColumnSpec("caption", "str"), captions),
        (ColumnSpec("caption_facts", "float32", 2, {"names": ["nuclei_per_mm2", "fibrillary_share"]}), facts),
        (ColumnSpec("features_check", "float16", 4), rng.normal(size=(n, 4)).astype(np.float16)),
    ]
    for spec, values in columns:
        for rows in table.prepare([spec], Receipt("check", 1, {"column": spec.name})):
            table.write(spec.name, rows, values[rows])
    vote(store, parameters=VoteParameters(min_patches=1))
