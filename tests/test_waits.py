"""Where people wait: which libraries each verb loads. What is finished, or refused, loads none that takes long."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import wsikit

MODELS = {"torch", "torchvision", "transformers", "timm"}
SLOW = MODELS | {"skimage", "sklearn", "scipy", "cv2", "zarr", "dask", "distributed", "pandas", "matplotlib", "pyarrow"}
"""Libraries that take a tenth of a second or more to import."""

CALL = f"""
import contextlib, io, json, sys
from wsikit.cli.main import main
said = io.StringIO()
with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
    try:
        main(sys.argv[1:])
    except SystemExit as ended:
        status = ended.code or 0
print(json.dumps([status, said.getvalue(), [name for name in {sorted(SLOW)!r} if name in sys.modules]]))
"""


def call(*arguments: str | Path) -> tuple[int, str, set[str]]:
    """Exit status and text of a verb in a process of its own, and which of `SLOW` are in memory afterwards."""
    done = subprocess.run(
        [sys.executable, "-c", CALL, *map(str, arguments)], capture_output=True, text=True, check=True
    )
    status, said, loaded = json.loads(done.stdout.splitlines()[-1])
    return status, said, set(loaded)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with slide.tiff, and its finished run in out/."""
    folder = tmp_path_factory.mktemp("finished")
    wsikit.make_phantom(folder / "slide.tiff", size_px=(600, 600))
    assert wsikit.run(folder / "slide.tiff", folder / "out", device="cpu").exit_status == 0
    return folder


@pytest.mark.parametrize("arguments", [[], ["--dry-run"]], ids=["run", "dry run"])
def test_a_finished_slide_loads_nothing_that_takes_long(finished: Path, arguments: list[str]) -> None:
    status, said, loaded = call("run", finished / "slide.tiff", "-o", finished / "out", *arguments)
    assert (status, loaded) == (0, set()), said


def test_a_finished_slide_with_another_vote_loads_no_model(finished: Path) -> None:
    status, said, loaded = call("run", finished / "slide.tiff", "-o", finished / "out", "--vote-method", "hard")
    assert (status, loaded & MODELS) == (0, set()), said


@pytest.fixture(scope="module")
def with_features(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """`finished`, with a run into features/ that stored features by a name of timm."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("LOCALAPPDATA", os.environ["XDG_CACHE_HOME"])
        result = wsikit.run(finished / "slide.tiff", finished / "features", features="random:resnet10t", device="cpu")
        assert result.exit_status == 0
        yield finished


@pytest.mark.parametrize("arguments", [[], ["--dry-run"]], ids=["run", "dry run"])
def test_a_finished_slide_with_features_by_a_name_of_timm_loads_nothing_that_takes_long(
    with_features: Path, arguments: list[str]
) -> None:
    places = (with_features / "slide.tiff", "-o", with_features / "features")
    status, said, loaded = call("run", *places, "--features", "random:resnet10t", *arguments)
    assert (status, loaded) == (0, set()), said


def test_features_that_are_up_to_date_load_no_model(with_features: Path) -> None:
    store = with_features / "features" / "slides" / "slide.zarr"
    status, said, loaded = call("features", store, "--encoder", "random:resnet10t", "--grid", "0.5um_224px")
    assert (status, loaded & MODELS) == (0, set()), said


@pytest.mark.parametrize(
    "verb",
    [
        ["info", "slide.tiff"],
        ["info", "out/slides/slide.zarr"],
        ["verify", "out/slides/slide.zarr"],
        ["vote", "out/slides/slide.zarr"],
        ["export", "out/slides/slide.zarr", "--to", "geojson", "-o", "x.geojson"],
        ["export", "out/slides/slide.zarr", "--to", "png", "-o", "x.png"],
        ["search", "out/slides/slide.zarr", "neuropil"],
    ],
    ids=lambda verb: f"{verb[0]} {Path(verb[1]).suffix}",
)
def test_verbs_without_a_model_load_none_and_no_image_library_that_they_do_not_use(
    finished: Path, verb: list[str]
) -> None:
    placed = [str(finished / word) if word.startswith(("slide", "out/", "x.")) else word for word in verb]
    status, said, loaded = call(*placed)
    assert status == 0, said
    allowed = {
        "info": {"zarr"},
        "verify": {"zarr"},
        "search": {"zarr"},
        "vote": {"zarr", "scipy", "cv2"},
        "export": {"zarr", "scipy", "cv2", "matplotlib"},
    }[verb[0]]
    assert loaded <= allowed


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "missing.svs", "-o", "new"], "missing.svs"),
        (["run", "slide.tiff", "-o", "new", "--model", "no-model"], "no-model"),
        (["run", "slide.tiff", "-o", "new", "--captioner", "no-captioner"], "no-captioner"),
        (["run", "slide.tiff", "-o", "new", "--min-tissue", "25"], "min_tissue"),
        (["run", "slide.tiff", "-o", "slide.tiff/new"], "slide.tiff"),
        (["train", "wrong.yaml", "-o", "new"], "wrong.yaml"),
        (["train", "missing.yaml", "-o", "new"], "missing.yaml"),
        (["ablate", "wrong.yaml", "-o", "new"], "wrong.yaml"),
        (["ablate", "missing.yaml", "-o", "new"], "missing.yaml"),
        (["evaluate", "phantom-mmlnb", "--config", "wrong.yaml", "-o", "new"], "wrong.yaml"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_request_is_refused_before_a_model_is_loaded(finished: Path, arguments: list[str], said: str) -> None:
    (finished / "wrong.yaml").write_text("data:\n  tabel: {}\n", encoding="utf-8")
    names = ("missing.svs", "slide.tiff", "new", "wrong.yaml", "missing.yaml", "slide.tiff/new")
    status, text, loaded = call(*(str(finished / word) if word in names else word for word in arguments))
    assert status == 2, text
    assert said in text
    assert loaded & MODELS == set()


def test_a_slide_without_a_pixel_size_is_refused_before_a_model_is_loaded(finished: Path, tmp_path: Path) -> None:
    import numpy as np
    import tifffile

    tifffile.imwrite(tmp_path / "s.tiff", np.full((256, 256, 3), 200, np.uint8), photometric="rgb", tile=(128, 128))
    status, text, loaded = call("run", tmp_path / "s.tiff", "-o", tmp_path / "out")
    assert status == 1
    assert "--assume-mpp" in text
    assert loaded & MODELS == set()


NO_GPU = """
import importlib.util, sys, types
torch = types.ModuleType("torch")
torch.cuda = types.SimpleNamespace(is_available=lambda: False)
sys.modules["torch"] = torch
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "slide.tiff", "-o", "new"],
        ["features", "slide.tiff", "-o", "new", "--encoder", "random:vit-s16"],
        ["features", "out/slides/slide.zarr", "--encoder", "random:vit-s16"],
        ["caption", "out/slides/slide.zarr"],
        ["predict", "out/slides/slide.zarr"],
        ["localize", "out/slides/slide.zarr", "neuropil"],
    ],
    ids=" ".join,
)
def test_a_gpu_that_is_not_there_is_refused_before_any_work(finished: Path, arguments: list[str]) -> None:
    placed = [str(finished / word) if word.startswith(("slide", "out/", "new")) else word for word in arguments]
    code = NO_GPU + CALL.replace("json.dumps([status", "json.dumps([torch is sys.modules.get('torch'), status")
    done = subprocess.run(
        [sys.executable, "-c", code, *placed, "--device", "cuda"], capture_output=True, text=True, check=True
    )
    alone, status, said, loaded = json.loads(done.stdout.splitlines()[-1])
    assert (alone, status) == (True, 2), said
    assert said.splitlines()[-1].startswith("wsikit: device 'cuda': torch finds no GPU here")
    assert set(loaded) & (MODELS - {"torch"}) == set()
    assert not (finished / "new").exists()
