"""Reading, tiling, verifying, measured captions, voting and exporting use no torch, whether it is installed or not."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from wsikit.store.receipts import Receipt
from wsikit.store.table import ColumnSpec
from wsikit.tiling.tile import tile

MODEL_LIBRARIES = ("torch", "torchvision", "transformers", "timm", "peft", "accelerate")

BLOCK = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {MODEL_LIBRARIES!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
"""

CALLS = f"""
import contextlib, io, json, sys, traceback
from wsikit.cli.main import main
record = []
for arguments in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    status = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(arguments)
        except SystemExit as ended:
            status = ended.code or 0
        except BaseException:
            status = -1
            traceback.print_exc()
    loaded = [name for name in {MODEL_LIBRARIES!r} if name in sys.modules]
    record.append([arguments, status, out.getvalue(), err.getvalue(), loaded])
print(json.dumps(record))
"""


@dataclass(frozen=True)
class Ended:
    """How one call of `wsikit` ended."""

    arguments: list[str]
    status: int
    out: str
    err: str
    loaded: list[str]
    """Model libraries in memory afterwards."""


def call(calls: list[list[str]], *, torch: bool) -> list[Ended]:
    """Run `wsikit` with each list of arguments, one after the other in one new process."""
    code = CALLS if torch else BLOCK + CALLS
    done = subprocess.run([sys.executable, "-c", code, json.dumps(calls)], capture_output=True, text=True, check=True)
    return [Ended(*row) for row in json.loads(done.stdout.splitlines()[-1])]


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory, write_slide, pixels) -> Path:
    return write_slide(tmp_path_factory.mktemp("slide") / "disc.tiff", pixels)


@pytest.fixture
def voted(slide: Path, tmp_path: Path) -> Path:
    """A store with stored probabilities, as a model writes them."""
    table = tile(slide, tmp_path / "voted.zarr", mpp=0.5, patch_px=96).patches()
    probs = np.tile(np.array([0.8, 0.15, 0.05], np.float32), (len(table.coords), 1))
    model = {
        "name": "m", "version": "1", "fingerprint": "0", "notice": "",
        "background": [], "class_names": ["u", "p", "d"], "colors": ["#d55e00"] * 3,
    }  # fmt: skip
    spec = ColumnSpec("probability", "float32", 3, {"names": ["UD", "PD", "D"], "model": model})
    for rows in table.prepare([spec], Receipt("test", 1)):
        table.write("probability", rows, probs[rows])
    return tmp_path / "voted.zarr"


def calls_without_a_model(slide: Path, voted: Path, folder: Path) -> list[list[str]]:
    store = str(folder / "s.zarr")
    return [
        ["info", str(slide)],
        ["tile", str(slide), "-o", store],
        ["verify", store, "--source", str(slide)],
        ["caption", store],
        ["search", store, "neuropil"],
        ["export", store, "--to", "csv", "-o", str(folder / "s.csv")],
        ["export", store, "--to", "png", "--column", "tissue", "-o", str(folder / "s.png")],
        ["vote", str(voted), "--min-patches", "1"],
        ["export", str(voted), "--to", "png", "-o", str(folder / "v.png")],
        ["export", str(voted), "--to", "geojson", "-o", str(folder / "v.geojson")],
        ["export", str(voted), "--to", "report", "-o", str(folder / "v.html")],
    ]


@pytest.mark.parametrize("torch", [False, True], ids=["torch absent", "torch installed"])
def test_all_that_needs_no_model_runs_without_torch(torch: bool, slide: Path, voted: Path, tmp_path: Path) -> None:
    for ended in call(calls_without_a_model(slide, voted, tmp_path), torch=torch):
        assert ended.status == 0, f"wsikit {' '.join(ended.arguments)}: {ended.out}{ended.err}"
        assert ended.loaded == [], f"wsikit {' '.join(ended.arguments)} imports {ended.loaded}"


def test_predict_and_run_report_in_one_line_that_torch_is_missing_and_how_to_install_it(
    slide: Path, tmp_path: Path
) -> None:
    tile(slide, tmp_path / "s.zarr")
    calls = [["predict", str(tmp_path / "s.zarr")], ["run", str(slide), "-o", str(tmp_path / "out")]]
    for ended in call(calls, torch=False):
        assert ended.status in (1, 2)
        assert "Traceback" not in ended.err
        lines = [line for line in (ended.out + ended.err).splitlines() if "torch" in line]
        assert len(lines) == 1, ended.out + ended.err
        assert "pip install wsikit" in lines[0]


def test_doctor_reports_torch_as_missing_with_the_command_that_installs_it() -> None:
    (ended,) = call([["doctor", "--json"]], torch=False)
    assert ended.status == 1
    record = json.loads(ended.out)
    missing = {check["name"] for check in record["checks"] if not check["ok"]}
    assert {"torch", "transformers", "timm"} <= missing
    assert '"torch>=' in record["pip"]
