"""Makes the table of docs/store.md that shows which stages of a run depend on which input.

Each row is made by changing one input of a finished run and asking the plan, which compares the receipts. Run
`python docs/inputs_table.py` after a change; `tests/batch/test_inputs.py` fails if the table is out of date.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from wsikit import make_phantom, run
from wsikit.batch.entry import SlideEntry
from wsikit.batch.plan import RunPlan
from wsikit.batch.run import plan_run
from wsikit.inference.budget import Budget
from wsikit.models.config import packaged_folder
from wsikit.tiling.plan import ImageParameters
from wsikit.tissue.parameters import TissueParameters
from wsikit.voting import VoteParameters

STORE_PAGE = Path(__file__).parent / "store.md"
BEGIN, END = "<!-- table of inputs: made by docs/inputs_table.py -->", "<!-- end of the table -->"
SIGNS = {"done": "", "redo": "↻", "missing": "+", "unknown": "?", "skipped": "–"}


@dataclass(frozen=True)
class Finished:
    """A finished run of one small slide."""

    folder: Path
    slide: Path
    regions: Path
    model: Path
    out: Path

    @classmethod
    def make(cls, folder: Path) -> Finished:
        """Make the slide and run it."""
        model = shutil.copytree(packaged_folder("phantom-mmlnb"), folder / "model")
        made = cls(folder, folder / "in" / "slide.tiff", folder / "in" / "regions.geojson", model, folder / "out")
        made.slide.parent.mkdir()
        make_phantom(made.slide, size_px=(600, 600), tissue_fraction=0.7, seed=3)
        _write_regions(made.regions, 600)
        result = run(**made.settings(), device="cpu")
        assert result.exit_status == 0, result
        return made

    def settings(self) -> dict[str, Any]:
        """Arguments of the run."""
        entry = SlideEntry("slide", str(self.slide))
        return {"slides": entry, "out": self.out, "model": self.model, "roi": self.regions, "min_roi": 0.4}

    @contextmanager
    def restored(self) -> Iterator[None]:
        """The input files and the model are as before at the end."""
        kept = self.folder / "kept"
        for name in ("in", "model"):
            shutil.copytree(self.folder / name, kept / name)
        try:
            yield
        finally:
            for name in ("in", "model"):
                shutil.rmtree(self.folder / name)
                (kept / name).rename(self.folder / name)
            shutil.rmtree(kept)


Change = Callable[[Finished, dict[str, Any], ExitStack], None]


def _setting(**changes: Any) -> Change:
    return lambda finished, settings, stack: settings.update(changes)


def _image(**changes: Any) -> Change:
    return _setting(image=ImageParameters(**changes))


def _vote(**changes: Any) -> Change:
    return _setting(vote=VoteParameters(**changes))


def _replace_slide(finished: Finished, settings: dict[str, Any], stack: ExitStack) -> None:
    """Other content of equal length under the same name, with the same times."""
    state = finished.slide.stat()
    data = bytearray(finished.slide.read_bytes())
    data[-1] ^= 1
    finished.slide.write_bytes(data)
    os.utime(finished.slide, ns=(state.st_atime_ns, state.st_mtime_ns))


def _move_slide(finished: Finished, settings: dict[str, Any], stack: ExitStack) -> None:
    moved = finished.slide.rename(finished.slide.with_name("moved.tiff"))
    os.utime(moved)
    settings["slides"] = SlideEntry("slide", str(moved))


def _manifest(finished: Finished, settings: dict[str, Any], stack: ExitStack) -> None:
    settings["slides"] = SlideEntry("slide", str(finished.slide), mpp=0.45)


def _sidecar(finished: Finished, settings: dict[str, Any], stack: ExitStack) -> None:
    Path(f"{finished.slide}.json").write_text(json.dumps({"mpp": 0.45}))


def _read_otherwise(finished: Finished, settings: dict[str, Any], stack: ExitStack) -> None:
    """A version that reads another pixel size from the same file."""
    from wsikit.slides import scale

    _version(finished, settings, stack)
    resolve = scale.resolve
    other = scale.Scale((0.45, 0.45), "TIFF XResolution")
    stack.enter_context(
        mock.patch.object(scale, "resolve", lambda path, *rest, **names: resolve(path, other, *rest[1:], **names))
    )


def _regions(finished: Finished, settings: dict[str, Any], stack: ExitStack) -> None:
    _write_regions(finished.regions, 400)


def _no_regions(finished: Finished, settings: dict[str, Any], stack: ExitStack) -> None:
    del settings["roi"]


def _model(**changes: Any) -> Change:
    def change(finished: Finished, settings: dict[str, Any], stack: ExitStack) -> None:
        path = finished.model / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


def _class_names(finished: Finished, settings: dict[str, Any], stack: ExitStack) -> None:
    names = json.loads((finished.model / "config.json").read_text())["class_names"]
    _model(class_names=[f"{name} (corrected)" for name in names])(finished, settings, stack)


def _revision(module: str, name: str) -> Change:
    def change(finished: Finished, settings: dict[str, Any], stack: ExitStack) -> None:
        _version(finished, settings, stack)
        stack.enter_context(mock.patch(f"wsikit.{module}.{name}", 99))

    return change


def _version(finished: Finished, settings: dict[str, Any], stack: ExitStack) -> None:
    stack.enter_context(mock.patch("wsikit.batch.finished.__version__", "99.0"))


ROWS: dict[str, Change] = {
    "slide file replaced under its name, also with equal size and time": _replace_slide,
    "slide file moved, or touched": _move_slide,
    "pixel size in a manifest": _manifest,
    "pixel size in a sidecar file": _sidecar,
    "another pixel size read from the same file by a newer version": _read_otherwise,
    "`--pixels`": _image(pixels="none"),
    "`--regions`": _image(regions="tissue"),
    "`--levels`": _image(levels=(1,)),
    "`--codec`": _image(codec="zstd"),
    "`--profile`": _image(profile="portable"),
    "`--keep-label`": _image(keep_label=True),
    "tissue parameters (Python)": _setting(tissue=TissueParameters(min_area_mm2=0.05)),
    "`--min-tissue`": _setting(min_tissue=0.5),
    "`--roi`: another outline in the file": _regions,
    "`--roi` no longer given": _no_regions,
    "`--roi-class`": _setting(roi_classes=("tumour",)),
    "`--min-roi`": _setting(min_roi=0.6),
    "`overlap_px` (Python)": _setting(overlap_px=32),
    "patch size or scale of the model": _model(patch_px=192),
    "`--captioner`": _setting(captioner="phantom-captioner"),
    "`--caption-budget`, `--caption-similarity`": _setting(caption_budget=Budget(3)),
    "files of the model": _model(version="99"),
    "class names of the model": _class_names,
    "`--stain`": _setting(stain="macenko"),
    "`--without`": _setting(without={"necrosis_share": 0.5}),
    "`--vote-method`": _vote(method="hard"),
    "vote: threshold of abstention": _vote(min_margin=0.4),
    "vote: weights, smoothing and all other parameters": _vote(smooth="median"),
    "revision of pixels": _revision("tiling.image", "IMAGE_REVISION"),
    "revision of tissue": _revision("tiling.patches", "TISSUE_REVISION"),
    "revision of patches": _revision("tiling.patches", "PATCHES_REVISION"),
    "revision of quality": _revision("tiling.patches", "QUALITY_REVISION"),
    "revision of measured captions": _revision("captions.morphometry", "_VERSION"),
    "revision of predictions": _revision("inference.predict", "PREDICT_REVISION"),
    "revision of the vote": _revision("inference.vote", "VOTE_REVISION"),
    "revision of map and report": _revision("results.outputs", "OUTPUTS_REVISION"),
    "version of wsikit alone": _version,
    "`--device`, `--workers`, `--scheduler`": _setting(device="cpu", workers=1),
}
"""Inputs, and what changes each of them."""


STAGES = ("pixels", "tissue", "patches", "quality", "captions", "predictions", "vote", "map and report")
"""The stages of a run without features, as the plan names them."""


def planned(finished: Finished, change: Change) -> RunPlan:
    """The plan of the same run with one input changed."""
    with finished.restored(), ExitStack() as stack:
        settings = finished.settings()
        change(finished, settings, stack)
        return plan_run(settings.pop("slides"), settings.pop("out"), **settings)


def line_of(name: str, plan: RunPlan) -> str:
    """The row of the table."""
    (slide,) = plan.slides
    assert not slide.fault, slide.fault
    assert slide.finished or tuple(stage.name for stage in slide.stages) == STAGES
    signs = [""] * len(STAGES) if slide.finished else [SIGNS[stage.state] for stage in slide.stages]
    return f"| {name} | {' | '.join(signs)} |".replace("|  ", "| ")


def header() -> list[str]:
    """The first two lines of the table."""
    return [f"| changed | {' | '.join(STAGES)} |", "|---" * (len(STAGES) + 1) + "|"]


def _write_regions(path: Path, side: int) -> None:
    corners = [[0, 0], [side, 0], [side, side], [0, side], [0, 0]]
    regions = [
        {
            "type": "Feature",
            "properties": {"classification": {"name": name}},
            "geometry": {"type": "Polygon", "coordinates": [[[x + shift, y] for x, y in corners]]},
        }
        for name, shift in (("tumour", 0), ("stroma", 200))
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": regions}))


def main() -> None:
    """Write the table into docs/store.md."""
    with tempfile.TemporaryDirectory() as folder:
        finished = Finished.make(Path(folder))
        lines = [line_of(name, planned(finished, change)) for name, change in ROWS.items()]
    text = STORE_PAGE.read_text(encoding="utf-8")
    before, after = text[: text.index(BEGIN) + len(BEGIN)], text[text.index(END) :]
    STORE_PAGE.write_text("\n".join([before, *header(), *lines, after]), encoding="utf-8")


if __name__ == "__main__":
    main()
