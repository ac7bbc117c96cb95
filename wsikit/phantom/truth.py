"""Ground truth of a synthetic slide: written next to the slide, read without unpickling.

`<stem>.truth.json` records what was made, `<stem>.truth.npz` holds the arrays, `<stem>.truth.csv` is a readable
patch table. Positions are level-0 pixels.
"""

from __future__ import annotations

import csv
import io
import json
import os
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from wsikit.errors import WsikitError
from wsikit.geometry import PatchGrid
from wsikit.phantom.cells import OBJECT_KINDS
from wsikit.phantom.facts import ARTEFACTS, CLASSES, MIN_DIFFERENTIATING, Facts, captions
from wsikit.phantom.fields import KINDS
from wsikit.phantom.recipe import Recipe

SCHEMA = "wsikit-phantom-truth/1"
NOTICE = "Synthetic image made by wsikit. Not tissue, not a patient, of no diagnostic meaning."


@dataclass(frozen=True)
class PhantomTruth:
    """Ground truth of a synthetic slide."""

    path: str
    """The slide."""
    seed: int
    subtype: str
    """UD, PD, D or GNB-I."""
    size_px: tuple[int, int]
    """Width and height of level 0."""
    mpp: float
    grid: PatchGrid
    facts: Facts
    """Facts of all N patches of `grid`, row-major."""
    tissue_mask: npt.NDArray[np.bool_]
    """(h, w), from level-0 (0, 0)."""
    mask_downsample: tuple[float, float]
    """Level-0 px per mask px along x and y."""
    chromatin: float
    recipe: dict[str, Any]
    """All parameters of the scene, as drawn."""

    @property
    def classes(self) -> tuple[str, ...]:
        return CLASSES

    @property
    def coords(self) -> npt.NDArray[np.int64]:
        """(N, 2) top-left corners x, y of the patches, level-0 px."""
        return self.grid.all_coords()

    @property
    def labels(self) -> npt.NDArray[np.int8]:
        """(N,) index into `classes`."""
        return self.facts.labels

    @property
    def borderline(self) -> npt.NDArray[np.bool_]:
        """(N,) patches that lie near a limit of the class rule."""
        return self.facts.borderline

    @property
    def class_map(self) -> npt.NDArray[np.int8]:
        """(n_rows, n_cols) `labels` as an image."""
        return self.labels.reshape(self.grid.n_rows, self.grid.n_cols)

    @property
    def captions(self) -> list[str]:
        """N reference captions."""
        return captions(self.facts, self.grid.patch_area_mm2, self.chromatin)

    @property
    def tissue_mm2(self) -> float:
        """Area of the tissue, mm²."""
        pixel_mm2 = self.mask_downsample[0] * self.mask_downsample[1] * (self.mpp / 1000) ** 2
        return float(self.tissue_mask.sum()) * pixel_mm2

    @property
    def diff_fraction(self) -> float:
        """Fraction of maturing cells among the neuroblastic cells of the slide."""
        return float(self.facts.n_maturing.sum() / max(1, int(self.facts.n_neuroblastic.sum())))

    @property
    def schwannian_fraction(self) -> float:
        """Fraction of Schwannian stroma in the tumour's area with its stroma: above one half, INPC calls it rich."""
        stroma = float(self.facts.fraction("stroma").sum())
        whole = stroma + float(self.facts.tumour.sum())
        return stroma / whole if whole else 0.0

    @property
    def neuropil_fraction(self) -> float:
        """Fraction of neuropil in the tumour area."""
        tumour = float(self.facts.tumour.sum())
        return float(self.facts.fraction("neuropil").sum()) / tumour if tumour else 0.0

    def rows_at(self, coords: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """(M,) rows of this table for patches at `coords` (M, 2) of the same grid, level-0 px."""
        columns, rows = self.grid.index_of(coords)
        return rows * self.grid.n_cols + columns

    def summary(self) -> dict[str, Any]:
        """Summary of the slide, JSON-ready."""
        labels, tissue = self.labels, self.facts.fraction("glass") < 0.5
        return {
            "subtype": self.subtype,
            "seed": self.seed,
            "size_px": list(self.size_px),
            "mpp": self.mpp,
            "tissue_mm2": round(self.tissue_mm2, 4),
            "n_neuroblastic": int(self.facts.n_neuroblastic.sum()),
            "diff_fraction": round(self.diff_fraction, 5),
            "neuropil_fraction": round(self.neuropil_fraction, 5),
            "schwannian_fraction": round(self.schwannian_fraction, 5),
            "tissue_patches": {name: int(((labels == n) & tissue).sum()) for n, name in enumerate(CLASSES)},
        }


def truth_paths(slide: str | os.PathLike[str]) -> tuple[Path, Path, Path]:
    """The three truth files of a slide: json, npz, csv."""
    path = Path(slide)
    for ending in (".truth.json", ".truth.npz", ".truth.csv", ".ome.tiff", ".ome.tif"):
        if path.name.endswith(ending):
            stem = path.name[: -len(ending)]
            break
    else:
        stem = path.stem
    return tuple(path.with_name(f"{stem}.truth.{kind}") for kind in ("json", "npz", "csv"))  # type: ignore[return-value]


def write_truth(truth: PhantomTruth) -> None:
    """Write the truth next to `truth.path`; the json last, as the mark of completeness."""
    json_path, npz_path, csv_path = truth_paths(truth.path)
    write_whole(npz_path, lambda file: _write_arrays(truth, file))
    write_whole(csv_path, lambda file: file.writelines(_csv_lines(truth)))
    record = {
        "schema": SCHEMA,
        "notice": NOTICE,
        "slide": Path(truth.path).name,
        "summary": truth.summary(),
        "grid": truth.grid.to_json(),
        "mask_downsample": list(truth.mask_downsample),
        "classes": list(CLASSES),
        "class_rule": "other: less than half of the area tumour; else D: more than "
        f"{MIN_DIFFERENTIATING:.0%} maturing cells; else UD: no neuropil; else PD",
        "tissues": list(KINDS),
        "objects": list(OBJECT_KINDS),
        "artefacts": list(ARTEFACTS),
        "chromatin": truth.chromatin,
        "recipe": truth.recipe,
    }
    write_whole(json_path, lambda file: file.write(json.dumps(record, indent=1, sort_keys=True).encode()))


def load_truth(path: str | os.PathLike[str]) -> PhantomTruth:
    """Read the ground truth of a synthetic slide, from the path of the slide or of one of its truth files.

    Raises
    ------
    WsikitError
        If there is none, or it was written by another version.
    """
    json_path, npz_path, _ = truth_paths(path)
    try:
        record = json.loads(json_path.read_text(encoding="utf-8"))
        if record.get("schema") != SCHEMA:
            found = record.get("schema")
            raise WsikitError(f"{json_path}: schema {found!r}, expected {SCHEMA!r}. Make the phantom again.")
        with np.load(npz_path, allow_pickle=False) as arrays:
            facts = Facts(arrays["fractions"], arrays["counts"], arrays["artefacts"])
            height, width = arrays["mask_shape"].tolist()
            mask = np.unpackbits(arrays["tissue_mask"], count=height * width).reshape(height, width).astype(bool)
    except FileNotFoundError as error:
        raise WsikitError(f"{error.filename}: not found. Only slides of `wsikit phantom` come with a truth.") from error
    except (json.JSONDecodeError, zipfile.BadZipFile, KeyError) as error:
        raise WsikitError(f"{json_path}: the truth is damaged ({error}). Make the phantom again.") from error
    summary = record["summary"]
    return PhantomTruth(
        path=str(json_path.with_name(record["slide"])),
        seed=summary["seed"],
        subtype=summary["subtype"],
        size_px=(summary["size_px"][0], summary["size_px"][1]),
        mpp=summary["mpp"],
        grid=PatchGrid.from_json(record["grid"]),
        facts=facts,
        tissue_mask=mask,
        mask_downsample=(record["mask_downsample"][0], record["mask_downsample"][1]),
        chromatin=record["chromatin"],
        recipe=record["recipe"],
    )


def recipe_record(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain JSON types."""
    record: dict[str, Any] = json.loads(json.dumps(asdict(recipe)))
    return record


def write_whole(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Write a file atomically: complete or not at all."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(part, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _write_arrays(truth: PhantomTruth, file: IO[bytes]) -> None:
    """An npz whose bytes depend only on its content: numpy.savez would include the time."""
    arrays = {
        "fractions": truth.facts.fractions,
        "counts": truth.facts.counts,
        "artefacts": truth.facts.artefacts,
        "mask_shape": np.asarray(truth.tissue_mask.shape, np.int64),
        "tissue_mask": np.packbits(truth.tissue_mask),
    }
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, np.ascontiguousarray(array), allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, buffer.getvalue())


def _csv_lines(truth: PhantomTruth) -> Iterator[bytes]:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    counted = [f"n_{kind}" for kind in OBJECT_KINDS]
    writer.writerow(["x", "y", "class", "borderline", *KINDS, *counted, "diff_fraction", *ARTEFACTS, "caption"])
    facts, labels, borderline, diff = truth.facts, truth.labels, truth.borderline, truth.facts.diff_fraction
    for row, ((x, y), caption) in enumerate(zip(truth.coords.tolist(), truth.captions, strict=True)):
        writer.writerow([
            x, y, CLASSES[labels[row]], int(borderline[row]), *(f"{v:.4f}" for v in facts.fractions[row]),
            *facts.counts[row].tolist(), f"{diff[row]:.4f}", *(f"{v:.3f}" for v in facts.artefacts[row]), caption,
        ])  # fmt: skip
        yield buffer.getvalue().encode()
        buffer.seek(0)
        buffer.truncate()
