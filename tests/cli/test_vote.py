"""`wsikit vote`: options of the command line become parameters, and a result is printed in one line."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wsikit.cli import run as run_verb
from wsikit.cli import vote as verb
from wsikit.cli.main import main
from wsikit.slides.store import SlideStore
from wsikit.store.receipts import Receipt
from wsikit.store.table import ColumnSpec
from wsikit.tiling.tile import tile
from wsikit.voting import METHODS, WEIGHTS, ThresholdRule, VoteParameters


def call(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, write_slide: Any, pixels: Any) -> Path:
    """A store whose patches are UD in the left half, PD in the right."""
    folder = tmp_path_factory.mktemp("vote")
    path = folder / "s.zarr"
    table = tile(write_slide(folder / "d.tiff", pixels), path, patch_px=96).patches()
    left = table.coords[:, 0] < 500
    probs = np.where(left[:, None], [0.8, 0.15, 0.05], [0.1, 0.85, 0.05]).astype(np.float32)
    model = {"background": [], "class_names": ["u", "p", "d"], "colors": ["#d55e00"] * 3, "notice": "", "name": "m"}
    spec = ColumnSpec("probability", "float32", 3, {"names": ["UD", "PD", "D"], "model": model})
    for rows in table.prepare([spec], Receipt("test", 1)):
        table.write("probability", rows, probs[rows])
    return path


def test_the_names_of_methods_and_weights_in_the_options_are_those_of_the_vote() -> None:
    assert verb.METHODS == METHODS
    assert verb.WEIGHTS == WEIGHTS
    assert tuple(verb.DEFAULT_WEIGHTS.split(",")) == VoteParameters().weights
    assert set(run_verb.VOTE_METHODS) <= set(METHODS)


def test_every_default_is_that_of_the_vote() -> None:
    defaults = verb.command.make_context("vote", ["x.zarr"]).params
    for field in fields(VoteParameters):
        if field.name in defaults and field.name not in ("weights", "rule"):
            assert defaults[field.name] == getattr(VoteParameters(), field.name), field.name


def test_options_become_parameters(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = "--method threshold --rule PD:0.6:0.25 --smooth mrf --coupling 0.3 --weights tissue --block 200 --seed 4"
    more = "--resamples 50 --min-second 0.01 --max-ood 0.6 --min-margin 0.05 --min-patches 2"
    assert call("vote", store, *options.split(), *more.split(), "--json") == 0
    said = json.loads(capsys.readouterr().out)
    receipt = SlideStore(store).patches().vote_receipt("threshold")
    assert receipt is not None
    asked = VoteParameters(
        "threshold", 2, 0.05, 0.6, rule=ThresholdRule("PD", 0.6, 0.25), smooth="mrf", coupling=0.3,
        weights=("tissue",), block_um=200, seed=4, resamples=50, second_mm2=0.01,
    )  # fmt: skip
    assert VoteParameters.from_json(receipt.parameters) == asked
    assert said["rule"]["holds"]
    assert said["classes"][said["label"]] == "PD"
    assert said["smoothing"] == "mrf"


def test_the_line_of_a_result_has_subtype_interval_and_second_subtype(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("vote", store, "--min-patches", 1, "--min-margin", 0, "--block", 100, "--min-second", 0.001) == 0
    line = capsys.readouterr().out
    assert "s.zarr: PD, margin" in line
    assert "[" in line
    assert "; also UD" in line
    assert "in one region" in line


@pytest.mark.parametrize("rule", ["PD", "PD:0.5", "PD:x:0.1", "PD:0.5:0", "NO:0.5:0.1"])
def test_an_invalid_rule_is_a_wrong_request(store: Path, rule: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("vote", store, "--method", "threshold", "--rule", rule) == 2
    assert rule.split(":")[0] in capsys.readouterr().err
