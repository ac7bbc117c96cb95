"""pipelines/swin_kan.py and pipelines/afloc_quality.py: all arms have the same start and data, and are kept."""

from __future__ import annotations

import csv
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from wsikit.training.afloc.config import AflocTrainConfig
from wsikit.training.data import PatchSet
from wsikit.training.task import read_config

PIPELINES = Path(__file__).parents[1] / "pipelines"


def module_of(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, PIPELINES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def write_patches(folder: Path) -> Path:
    """48 patches of 12 patients: smooth or striped, of one mean colour."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    with open(folder / "patches.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file_name", "description", "class", "patient", "slide"])
        for n in range(48):
            pixels = 128 + rng.normal(0, 5, (32, 32, 3)) + 60 * (n % 2) * np.sign(np.sin(np.arange(32)))[:, None]
            Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / f"{n}.png")
            caption = ["Necrosis; blood absent.", "Fat; no necrosis."][n % 2]
            table.writerow([f"{n}.png", caption, ["smooth", "striped"][n % 2], f"p{n // 4}", f"p{n // 4}"])
    return folder


@pytest.mark.parametrize("name", ["swin_kan_idc", "swin_kan_phantom"])
def test_the_shipped_arms_differ_in_the_network_only(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("WSIKIT_DATA", "WSIKIT_PATCHES"):
        monkeypatch.setenv(variable, "somewhere")
    settings = read_config(PIPELINES / "configs" / f"{name}.yaml", module_of("swin_kan").Settings)
    assert settings.arms[0].options == {"kan": False, "fusion": False}
    assert [arm.contrast is not None for arm in settings.arms] == [False, False, True]
    assert settings.image.name == "swin_kan_micro"


def test_arms_are_trained_compared_and_kept(tmp_path: Path) -> None:
    pipeline = module_of("swin_kan")
    write_patches(tmp_path / "images")
    record = yaml.safe_load((PIPELINES / "configs" / "swin_kan_phantom.yaml").read_text())
    record["data"] |= {"patch_px": 32, "group": "patient"}
    record["classes"] = [{"code": "smooth"}, {"code": "striped"}]
    record["folds"] = {"k": 3, "tested": [0], "training_seeds": [0, 1]}
    record["training"] |= {"epochs": 3, "batch": 16}
    record["image"] |= {"options": {"embed_dim": 8, "num_heads": [1, 2, 4, 8]}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(record))
    out = tmp_path / "out"
    arguments = ["swin_kan", str(tmp_path / "config.yaml"), "--data", str(tmp_path / "images"), "-o", str(out)]
    tables = []
    for _ in range(2):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", arguments)
            assert pipeline.main() == 0
        tables.append((out / "results.md").read_text())
        stamps = {path.name: path.stat().st_mtime_ns for path in (out / "predictions").iterdir()}
    assert tables[0] == tables[1]  # the second call trained nothing: its seconds are those of the first
    assert len(stamps) == 6
    assert [line.split("|")[1].strip() for line in tables[0].splitlines()[2:]] == [
        "plain Swin", "CMSwinKAN", "CMSwinKAN, contrast", "floor: colour histogram",
    ]  # fmt: skip


def test_the_shipped_quality_configuration_is_valid_and_its_arms_differ_in_the_copies_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WSIKIT_PATCHES", "somewhere")
    pipeline = module_of("afloc_quality")
    arms = pipeline.arms(read_config(pipeline.CONFIG, AflocTrainConfig), ["weaker={weight: 0.1, self_paced: true}"])
    without, copies, judged, weaker = (arm.training for arm in arms.values())
    assert without.quality_negatives is None
    assert (copies.quality_negatives.truth, judged.quality_negatives.truth) == ("patch", "caption")
    assert (weaker.quality_negatives.weight, weaker.quality_negatives.self_paced) == (0.1, True)
    assert weaker.quality_negatives.share == copies.quality_negatives.share
    same = {arm.training.model_copy(update={"quality_negatives": None}).model_dump_json() for arm in arms.values()}
    assert len(same) == 1


def test_the_figure_is_one_for_perfect_scores_and_a_half_for_none() -> None:
    pipeline = module_of("afloc_quality")
    rng = np.random.default_rng(0)
    named = (rng.random((40, 2)) < 0.5).astype(np.float32)
    groups = np.array([f"s{n // 4}" for n in range(40)])
    test = PatchSet(np.zeros((40, 2, 2, 3), np.uint8), np.zeros(40, int), groups, ("",) * 40)
    scores = {"clean": named.astype(np.float64), "pen": np.zeros((40, 2))}
    found = pipeline.figures(scores, test, named, np.ones((1, 10)))
    assert found["clean"][0] == pytest.approx(1.0)
    assert found["pen"][0] == pytest.approx(0.5)


def test_faults_of_the_test_patches_are_the_same_for_all_arms() -> None:
    pipeline = module_of("afloc_quality")
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    test = PatchSet(images, np.zeros(3, int), np.array(["a", "b", "c"]), ("",) * 3)
    one, two = pipeline.views_of(test, 0.5), pipeline.views_of(test, 0.5)
    assert list(one) == ["clean", "blur", "pen", "fold"]
    assert all((one[name] == two[name]).all() for name in one)
    assert torch.from_numpy(one["clean"]).equal(torch.from_numpy(images))
