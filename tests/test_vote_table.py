"""pipelines/vote_table.py: errors and differences are what they say; a folder of `wsikit ablate` is all it needs."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from wsikit.training.data import PatchSet
from wsikit.training.splits import write_splits

SCRIPT = Path(__file__).parents[1] / "pipelines" / "vote_table.py"
ARM = "PRMF robust|measured captions"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("vote_table", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["vote_table"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def ablation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve patients of 20 patches and one of 5, in three folds; patch probabilities are underconfident."""
    out = tmp_path_factory.mktemp("ablation")
    rng = np.random.default_rng(0)
    groups = np.repeat([f"p{i:02}" for i in range(13)], [20] * 12 + [5])
    labels = (rng.random(245) < np.repeat(rng.uniform(0, 0.8, 13), [20] * 12 + [5])).astype(np.int64)
    images = np.zeros((245, 2, 2, 3), np.uint8)
    ids = tuple(f"{i}.png" for i in range(245))
    data = PatchSet(images, labels, groups, ("",) * 245, ids, classes=("benign", "IDC"))
    data.save(out / "patches.npz")
    fold_of = np.array([int(name[1:]) % 3 for name in groups])
    rows = [np.flatnonzero(fold_of == fold) for fold in range(3)]
    splits = [{"train": np.setdiff1d(np.arange(245), test), "test": test} for test in rows]
    write_splits(out / "splits.json", data, splits, seed=0)
    (out / "predictions").mkdir()
    p = np.where(labels == 1, 0.65, 0.35) + rng.normal(0, 0.02, 245)
    for fold, test in enumerate(rows):
        probs = np.stack([1 - p[test], p[test]], axis=1).astype(np.float32)
        arrays = {f"probs/{ARM}": probs, f"gate/{ARM}": np.full(len(test), 0.5, np.float32)}
        np.savez(out / "predictions" / f"seed0_fold{fold}.npz", rows=test, **arrays)
    return out


def test_patients_of_an_ablation_get_a_table(script, ablation: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(script, "STEPS", 5)
    monkeypatch.setattr(script, "METHODS", ("hard", "mean", "soft_clinical", "attention"))
    monkeypatch.setattr(sys, "argv", ["vote_table.py", "patients", str(ablation), "-o", str(tmp_path / "t.md")])
    assert script.main() == 0
    text = (tmp_path / "t.md").read_text(encoding="utf-8")
    assert "12 patients with 20 patches or more, of 13; 3 folds by patient" in text
    assert "| soft_clinical" not in text
    found = json.loads((tmp_path / "t.json").read_text(encoding="utf-8"))
    errors = {way: of["error"][0] for way, of in found["figures"]["error of the shares"].items()}
    assert errors["hard"] == pytest.approx(0.0)  # every patch is on its side
    # mean: 0.35 + 0.3 f for f, until a temperature sharpens it
    data = PatchSet.load(ablation / "patches.npz")
    shares = [data.labels[data.groups == name].mean() for name in np.unique(data.groups)[:12]]
    assert errors["mean, as it is"] == pytest.approx(np.mean([abs(0.35 - 0.7 * f) for f in shares]), abs=0.01)
    assert errors["mean"] < 0.3 * errors["mean, as it is"]
    assert found["fitted"]["mean"] == ["temperature 0.25"] * 3


def test_each_fold_is_fitted_on_the_others(script, ablation: Path, monkeypatch: pytest.MonkeyPatch):
    seen: list[tuple[set[str], set[str]]] = []
    fit, answer = script.fit_parameters, script.answer

    def fit_and_note(slides, start):
        seen.append(({slide.patient for slide in slides}, set()))
        return fit(slides, start)

    def answer_and_note(slide, parameters):
        seen[-1][1].add(slide.patient)
        return answer(slide, parameters)

    monkeypatch.setattr(script, "fit_parameters", fit_and_note)
    monkeypatch.setattr(script, "answer", answer_and_note)
    monkeypatch.setattr(script, "METHODS", ("mean",))
    script.patients_of(ablation, ARM)
    assert len(seen) == 3
    assert all(not known & asked and len(known | asked) == 12 for known, asked in seen)


def test_differences_are_paired(script):
    rng = np.random.default_rng(1)
    truth = np.eye(2)[rng.integers(0, 2, 200)]
    hard = rng.uniform(0, 0.4, 200)  # what makes a slide hard, makes it hard for both ways
    off = np.stack([truth[:, 0] * (1 - hard) + truth[:, 1] * hard, truth[:, 1] * (1 - hard) + truth[:, 0] * hard], 1)
    worse = off + 0.05 * (1 - 2 * truth)
    asked = script.Asked(truth, {"mean": off[None], "other": worse[None]}, {})
    found = script.figures(asked, script.share_error)
    assert found["mean"]["error"][0] == pytest.approx(hard.mean())
    difference, low, high = found["other"]["difference"]
    assert difference == pytest.approx(low) == pytest.approx(high) == pytest.approx(0.05)
    assert found["other"]["error"][2] - found["other"]["error"][1] > 0.01


def test_attention_learns_which_patches_tell(script):
    """Patches with an open gate tell the truth, the others its opposite."""
    rng = np.random.default_rng(2)
    slides = []
    for index in range(12):
        gate = (np.arange(30) < 10).astype(float)
        right = np.eye(2)[index % 2]
        probs = np.where(gate[:, None] == 1, 0.1 + 0.8 * right, 0.3 + 0.4 * right[::-1])
        probs = probs / probs.sum(axis=1, keepdims=True)
        order = rng.permutation(30)
        evidence = script.Evidence(gate=gate[order])
        slides.append(script.VoteSlide(str(index), str(index), probs[order], np.ones(30), right, evidence))
    attend = script.fit_attention(slides[:8], seed=0)
    for slide in slides[8:]:
        weights, gate = attend(slide).evidence.attention, np.asarray(slide.evidence.gate)
        assert weights.sum() == pytest.approx(1, abs=1e-5)
        assert weights[gate == 1].sum() > 0.8


def test_details_are_shares_of_patients_and_balanced_over_classes(script):
    """10 patients of class 0, all called right, 5 of class 1, of which 2; two seeds that agree."""
    truth = np.eye(2)[[0] * 10 + [1] * 5]
    right = np.array([1.0] * 12 + [0.0] * 3)
    covered = np.array([1.0] * 9 + [0.0] * 6)
    details = {
        "natural": np.tile(right, (2, 1)),
        "covered 0.9": np.tile(covered, (2, 1)),
        "sampled": np.full((2, 15), np.nan),
    }
    asked = script.Asked(truth, {"mean": truth[None]}, {}, {"mean": details})
    found = script.detail_figures(asked)["mean"]
    assert found["natural"][0] == pytest.approx((1 + 0.4) / 2)
    assert found["covered 0.9"][0] == pytest.approx(0.6)
    assert found["covered 0.9"][1] < 0.5 < 0.7 < found["covered 0.9"][2]
    assert "sampled" not in found


def test_the_correction_to_the_training_frequencies_is_that_of_each_fold(script, ablation: Path, monkeypatch):
    monkeypatch.setattr(script, "METHODS", ("mean",))
    data = PatchSet.load(ablation / "patches.npz")
    plain, _ = script.patients_of(ablation, ARM)
    moved, _ = script.patients_of(ablation, ARM, corrected=True)
    kept = np.unique(data.groups)[:12]
    for at, name in enumerate(kept):
        fold = int(name[1:]) % 3
        train = data.labels[np.array([int(group[1:]) % 3 != fold for group in data.groups])].mean()
        # patches of 0.65 and 0.35 and little noise, each moved by the odds of the training patches
        share = data.labels[data.groups == name].mean()
        odds = train / (1 - train)
        high, low = (odds * p / (odds * p + 1 - p) for p in (0.65, 0.35))
        found = moved.answers["mean, as it is"][0, at, 1]
        assert found == pytest.approx(share * high + (1 - share) * low, abs=0.015)
        assert plain.answers["mean, as it is"][0, at, 1] == pytest.approx(share * 0.65 + (1 - share) * 0.35, abs=0.015)


def test_an_ablation_of_balanced_models_gets_both_tables(script, ablation: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(script, "METHODS", ("mean",))
    monkeypatch.setattr(script, "is_balanced", lambda out: True)
    monkeypatch.setattr(sys, "argv", ["vote_table.py", "patients", str(ablation), "-o", str(tmp_path / "t.md")])
    assert script.main() == 0
    assert "Corrected to the class frequencies" in (tmp_path / "t.md").read_text(encoding="utf-8")
    found = json.loads((tmp_path / "t.json").read_text(encoding="utf-8"))
    for details in (found["details"], found["corrected"]["details"]):
        assert 0 <= details["mean"]["natural"][0] <= 1


def test_places_are_read_from_names(script):
    places = script.places_of(["a_x1051_y501_class0.png", "a_x1101_y501_class1.png"], 50, 4.0)
    assert places.coords.tolist() == [[0, 0], [50, 0]]
    assert places.grid.side == (50, 50)
    assert script.places_of(["a.png"], 50, 4.0) is None
