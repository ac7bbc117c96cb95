"""A vote fitted on validation slides: known parameters are recovered, test slides are not used."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from wsikit.cli.main import main
from wsikit.errors import RequestError
from wsikit.models.io import load_model
from wsikit.slides.store import SlideStore
from wsikit.training import vote_validation
from wsikit.training.config import TrainConfig, read_config
from wsikit.training.fit_vote import (
    GRIDS,
    VoteSlide,
    brier,
    fit_margin,
    fit_parameters,
    fit_rules,
    refuse_tested,
)
from wsikit.training.vote_validation import fit, run_vote_fit
from wsikit.voting import METHODS, Evidence, ThresholdRule, VoteParameters, vote
from wsikit.voting.area_fractions import Share
from wsikit.voting.fitted_parameters import FittedVote, read_fitted
from wsikit.voting.temperature import at_temperature


def slide(name: str, probs: list[list[float]], truth: list[float], **evidence: object) -> VoteSlide:
    rows = np.array(probs, dtype=np.float64)
    return VoteSlide(name, f"patient {name}", rows, np.ones(len(rows)), np.array(truth), Evidence(**evidence))


def too_sure(seed: int, share: float, temperature: float = 2.0) -> VoteSlide:
    """400 patches of two classes whose probabilities are right, then sharpened."""
    rng = np.random.default_rng(seed)
    p = rng.beta(4 * share, 4 * (1 - share), size=400)
    honest = np.stack([p, 1 - p], axis=1)
    return VoteSlide(str(seed), str(seed), at_temperature(honest, 1 / temperature), np.ones(400), honest.mean(axis=0))


def test_the_temperature_that_made_patches_overconfident_is_found():
    slides = [too_sure(seed, share) for seed, share in enumerate(np.linspace(0.1, 0.9, 12))]
    fitted = fit_parameters(slides, VoteParameters("mean"))
    assert fitted.temperature == 2.0
    assert brier(slides, fitted) < 0.2 * brier(slides, VoteParameters("mean"))


def test_mixed_slides_are_fitted_by_the_error_of_their_shares():
    """In ten slides temperature 1 is right; one slide is so wrong that the squared error asks for another."""
    given = [slide(str(i), [[0.7, 0.3]] * 9, [0.7, 0.3]) for i in range(10)]
    given.append(slide("far", [[0.7, 0.3]] * 9, [0.0, 1.0]))
    grid = [replace(VoteParameters(), temperature=t) for t in GRIDS["mean"]["temperature"]]
    assert min(grid, key=lambda one: brier(given, one)).temperature == 1.4
    assert fit_parameters(given, VoteParameters()).temperature == 1.0


def test_patches_of_other_tissue_get_no_weight_where_they_mislead():
    """In each slide 10 patches of key tissue are right and 30 of other tissue are wrong."""
    slides = []
    for index in range(6):
        right, wrong = ([0.9, 0.1], [0.3, 0.7]) if index % 2 else ([0.1, 0.9], [0.7, 0.3])
        tissue = [[0.1, 0.8, 0.1]] * 10 + [[0.9, 0.05, 0.05]] * 30
        truth = [1.0, 0.0] if index % 2 else [0.0, 1.0]
        slides.append(slide(str(index), [right] * 10 + [wrong] * 30, truth, key_tissue=np.array(tissue)))
    start = VoteParameters("soft_clinical", gamma=10.0)
    assert brier(slides, start) > 0.2
    fitted = fit_parameters(slides, start)
    assert fitted.gamma == 0.1
    assert brier(slides, fitted) < 0.1


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"threshold"}))
def test_a_fit_is_never_worse_than_where_it_began(method: str):
    rng = np.random.default_rng(3)
    slides = []
    for index in range(8):
        probs = rng.dirichlet([1 + index % 3, 2, 1], size=30)
        given = {"gate": rng.random(30), "attention": rng.random(30), "key_tissue": rng.dirichlet([1, 1, 1], size=30)}
        slides.append(slide(str(index), probs.tolist(), np.eye(3)[index % 3].tolist(), **given))
    start = VoteParameters(method)
    fitted = fit_parameters(slides, start)
    assert brier(slides, fitted) <= brier(slides, start)
    changed = {name for name, value in vars(fitted).items() if value != getattr(start, name)}
    assert changed <= set(GRIDS[method])


def test_a_rules_share_is_fitted():
    """D from a fifth of the patches on; a tenth of D patches comes by mistake."""
    slides = []
    for index in range(8):
        n = 20 if index % 2 else 8
        slides.append(slide(str(index), [[0.1, 0.9]] * n + [[0.9, 0.1]] * (80 - n), [1.0 - index % 2, index % 2]))
    start = VoteParameters("threshold", rule=ThresholdRule(1, 0.5, 0.05))
    fitted = fit_parameters(slides, start)
    assert brier(slides, start) == pytest.approx(1.0)  # all are called D
    assert brier(slides, fitted) == 0.0
    assert fitted.rule == ThresholdRule(1, 0.5, 0.2)


def test_the_margin_leaves_out_the_slides_that_are_called_wrong():
    sure = [slide(f"a{i}", [[0.9, 0.1]] * 9, [1.0, 0.0]) for i in range(10)]
    torn = [slide(f"b{i}", [[0.55, 0.45]] * 9, [i % 2, 1 - i % 2]) for i in range(4)]
    fitted, said = fit_margin(sure + torn, VoteParameters())
    assert 0.1 < fitted.min_margin <= 0.8 + 1e-9
    assert said == "0 of 10 slides called are wrong, 14 in all"
    wrong = [slide(str(i), [[0.9, 0.1]] * 9, [0.0, 1.0]) for i in range(5)]
    kept, said = fit_margin(wrong, VoteParameters(min_margin=0.2))
    assert kept.min_margin == 0.2
    assert "no margin" in said


def test_the_limits_of_proxies_are_fitted_and_those_of_inpc_left():
    def shares(neuropil: float, differentiating: float) -> dict[str, Share]:
        return {
            "neuropil": Share(neuropil, None, None, 1),
            "differentiating": Share(differentiating, None, None, 1),
        }

    found = [shares(0.1, 0.0), shares(0.2, 0.01), shares(0.8, 0.1), shares(0.9, 0.2), shares(0.9, 0.7)]
    rules = fit_rules(found, ["UD", "UD", "PD", "PD", "D"])
    assert 0.2 <= rules.neuropil_share < 0.8
    assert 0.2 <= rules.differentiating < 0.7
    assert rules.stroma_rich == 0.5
    assert fit_rules(found[:2], ["UD", "UD"]).neuropil_share == 0.01  # one grade teaches no limit


def test_a_slide_or_patient_in_both_parts_is_refused():
    refuse_tested([("s1", "p1")], [("s2", "p2")])
    with pytest.raises(RequestError, match="1 patient.*'p1'"):
        refuse_tested([("s1", "p1")], [("s2", "p1")])
    with pytest.raises(RequestError, match="1 slide.*'s1'"):
        refuse_tested([("s1", "p1")], [("s1", "p2")])
    with pytest.raises(RequestError, match="too few"):
        fit_parameters([slide("a", [[0.9, 0.1]], [1, 0])] * 2, VoteParameters())


def test_what_was_fitted_survives_json(tmp_path: Path):
    slides = [slide(str(i), [[0.1 * i, 0.2, 0.8 - 0.1 * i]] * 5, np.eye(3)[i % 3].tolist()) for i in range(6)]
    fitted = fit(slides, VoteParameters("confidence"), codes=("UD", "PD", "D"), model="f" * 64)
    assert fitted.rules is not None
    path = tmp_path / "vote.json"
    path.write_text(json.dumps(fitted.to_json()), encoding="utf-8")
    assert read_fitted(path) == fitted
    assert "patient 0" not in path.read_text(encoding="utf-8")
    for text, said in (("{}", "not voting parameters"), ("no", "damaged")):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(RequestError, match=said):
            read_fitted(path)


def test_a_temperature_softens_the_vote():
    rows = np.tile([0.9, 0.1], (30, 1))
    assert vote(rows, temperature=2.0).probs == pytest.approx([0.75, 0.25])
    assert vote(rows, method="hard", temperature=2.0).probs == pytest.approx([1, 0])
    with pytest.raises(RequestError, match="temperature"):
        vote(rows, temperature=0.0)


CODES = {"UD": (90, 40, 130), "PD": (150, 80, 160), "D": (220, 170, 200)}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a configuration, and in out/ what `wsikit train` made of it: 90 patches of 18 patients."""
    folder = tmp_path_factory.mktemp("fit")
    (folder / "data").mkdir()
    rng = np.random.default_rng(0)
    rows = [["file_name", "class", "patient", "slide"]]
    for patient in range(18):
        code = list(CODES)[patient % 3]
        for i in range(5):
            pixels = np.array(CODES[code]) + rng.normal(0, 12, (32, 32, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / "data" / f"{patient}_{i}.png")
            rows.append([f"{patient}_{i}.png", code, f"p{patient}", f"p{patient}-s{i % 2}"])
    with open(folder / "data" / "t.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    settings = {
        "name": "tiny",
        "data": {"mpp": 0.5, "patch_px": 32, "table": {"images": str(folder / "data")}},
        "classes": [{"code": code} for code in CODES],
        "captions": {"source": "none"},
        "split": {"validation": 0.34, "test": 0.33},
        "image": {"name": "lcnet_035"},
        "text": {
            "model_type": "bert",
            "max_tokens": 40,
            "options": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16},
        },
        "prmf": {"d": 16},
        "training": {"epochs": 3, "batch": 8, "lr": {"image": 1e-3, "text": 1e-3, "fusion": 1e-3}},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    assert call("train", folder / "config.yaml", "-o", folder / "out", "--device", "cpu") == 0
    return folder


def call(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


def test_evaluate_fits_a_vote_on_the_validation_slides_alone(trained: Path, monkeypatch: pytest.MonkeyPatch):
    out, seen = trained / "out", []
    run = vote_validation.outputs_of
    monkeypatch.setattr(vote_validation, "outputs_of", lambda model, data: seen.append(data.ids) or run(model, data))
    asked = ("evaluate", out / "model", "--split", out / "splits.json", "--device", "cpu", "--fit-vote", "confidence")
    assert call(*asked, "-o", trained / "vote") == 0
    parts = json.loads((out / "splits.json").read_text())["folds"][0]
    assert sorted(seen[0]) == sorted(parts["validation"]["ids"])
    found = read_fitted(trained / "vote" / "vote.json")
    assert found.parameters.method == "confidence"
    assert found.slides == 2 * parts["validation"]["groups"]
    assert found.model == load_model(out / "model").fingerprint
    assert call(*asked, "-o", trained / "vote") == 2  # nothing is overwritten
    assert call(*(part for part in asked if part not in ("--split", out / "splits.json")), "-o", trained / "v2") == 2


def test_validation_patients_that_were_trained_on_are_refused(trained: Path, tmp_path: Path):
    out = trained / "out"
    model, config = load_model(out / "model"), read_config(trained / "config.yaml", TrainConfig)
    splits = json.loads((out / "splits.json").read_text())
    fold = splits["folds"][0]
    fold["train"], fold["validation"] = fold["validation"], fold["train"]
    (tmp_path / "s.json").write_text(json.dumps(splits))
    with pytest.raises(RequestError, match="was trained on .* of the validation patients"):
        run_vote_fit(model, config, tmp_path / "o", split_file=tmp_path / "s.json")


def test_a_slide_shared_by_validation_and_test_is_refused(trained: Path, tmp_path: Path):
    """Grouped by file, the halves of one slide may be in both parts."""
    out = trained / "out"
    model, config = load_model(out / "model"), read_config(trained / "config.yaml", TrainConfig)
    by_file = config.model_copy(update={"data": config.data.model_copy(update={"group": "file"})})
    patches = vote_validation.load_data(by_file).prepared.patches
    from wsikit.training.splits import split, write_splits

    parts = split(patches.labels, patches.groups, validation=0.3, test=0.3, seed=0)
    write_splits(tmp_path / "s.json", patches, [parts], seed=0)
    with pytest.raises(RequestError, match=r"slide\(s\) are in validation and in test"):
        run_vote_fit(model, by_file, tmp_path / "o", split_file=tmp_path / "s.json")


def test_vote_takes_fitted_parameters_and_refuses_those_of_another_model(slide_path: Path, tmp_path: Path, capsys):
    store = tmp_path / "s.zarr"
    for verb in (("tile", slide_path, "-o", store), ("caption", store), ("predict", store, "--device", "cpu")):
        assert call(*verb) == 0
    model = load_model().fingerprint or ""
    parameters = VoteParameters("confidence", min_patches=1, min_margin=0.0, kappa=4.0, temperature=2.0)
    fitted = FittedVote(parameters, ("UD", "PD", "D"), model, 5, (), "", 0, {}, "")
    path = tmp_path / "vote.json"
    path.write_text(json.dumps(fitted.to_json()))
    capsys.readouterr()
    assert call("vote", store, "--parameters", path, "--json", "--inpc") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["method"] == "confidence"
    assert found["inpc"]["notice"].startswith("Research use only")
    kept = SlideStore(store).patches().vote_receipt("confidence")
    assert kept.parameters == parameters.to_json()
    assert call("vote", store, "--parameters", path, "--kappa", "1", "--method", "mean") == 0  # what is typed wins
    kept = SlideStore(store).patches().vote_receipt("mean")
    assert kept.parameters == replace(parameters, method="mean", kappa=1.0).to_json()
    path.write_text(json.dumps(replace(fitted, model="0" * 64).to_json()))
    assert call("vote", store, "--parameters", path) == 2
    assert "fitted for model 000000000000" in capsys.readouterr().err
