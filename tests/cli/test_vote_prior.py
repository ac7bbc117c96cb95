"""Class frequencies and learned errors in a store: the vote, its receipt, the map and result.json agree."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wsikit.cli.main import main
from wsikit.inference import vote as voting_stage
from wsikit.inference.vote import stored_vote, vote
from wsikit.models.registry import describe_model
from wsikit.results.load import StoredResults
from wsikit.results.record import result_record
from wsikit.slides.store import SlideStore
from wsikit.store.receipts import Receipt
from wsikit.store.table import ColumnSpec
from wsikit.tiling.tile import tile
from wsikit.voting import VoteParameters
from wsikit.voting.fitted_parameters import FittedVote
from wsikit.voting.learned import LearnedVote, canonical

RECORD = {"prior": [0.9, 0.1], "balanced": True}


def call(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


@pytest.fixture
def store(tmp_path: Path, write_slide: Any, pixels: Any) -> Any:
    """Makes a store whose patches have p(IDC) = 0.6, by a model with this record."""

    def make(**record: Any) -> Path:
        path = tmp_path / f"s{len(record)}.zarr"
        table = tile(write_slide(tmp_path / f"d{len(record)}.tiff", pixels), path, patch_px=96).patches()
        probs = np.tile(np.array([0.4, 0.6], np.float32), (len(table), 1))
        model = {
            "background": [],
            "class_names": ["b", "c"],
            "colors": ["#0072b2", "#d55e00"],
            "notice": "",
            "name": "m",
        }
        model |= {"version": "1", "fingerprint": "f" * 64, **record}
        spec = ColumnSpec("probability", "float32", 2, {"names": ["benign", "IDC"], "model": model})
        for rows in table.prepare([spec], Receipt("test", 1)):
            table.write("probability", rows, probs[rows])
        return path

    return make


CORRECTED = 0.6 * 0.1 / (0.6 * 0.1 + 0.4 * 0.9)


def test_vote_map_and_result_use_the_training_frequencies_where_they_are_recorded(store: Any) -> None:
    path = store(**RECORD)
    result = vote(path, parameters=VoteParameters(min_patches=1))
    assert result.probs[1] == pytest.approx(CORRECTED, abs=1e-6)
    results = StoredResults(SlideStore(path))
    assert set(results.class_map.labels.tolist()) == {0}
    assert results.class_map.probs[0, 1] == pytest.approx(CORRECTED, abs=1e-6)
    assert result_record(results)["prior"] == {
        "kind": "training",
        "from": {"benign": 0.5, "IDC": 0.5},
        "to": {"benign": 0.9, "IDC": 0.1},
    }
    receipt = SlideStore(path).patches().vote_receipt("mean")
    assert receipt.parameters["prior_shift"]["kind"] == "training"
    assert stored_vote(SlideStore(path).patches(), "mean").prior == result.prior


def test_a_stated_prior_is_another_vote_and_its_map_follows(store: Any, capsys: pytest.CaptureFixture[str]) -> None:
    path = store(**RECORD)
    assert call("vote", path, "--min-patches", 1, "--prior", "balanced", "--json") == 0
    assert json.loads(capsys.readouterr().out)["probs"][1] == pytest.approx(0.6, abs=1e-6)
    assert set(StoredResults(SlideStore(path)).class_map.labels.tolist()) == {1}
    assert call("vote", path, "--min-patches", 1, "--prior", "IDC=0.5,benign=0.3") == 2
    assert "sum to 0.8" in capsys.readouterr().err
    assert call("vote", path, "--min-patches", 1) == 0
    said = capsys.readouterr().out
    assert (
        "probabilities corrected from equal frequencies to those of the training patches (benign 0.9, IDC 0.1)" in said
    )


def test_predictions_of_a_model_without_the_record_are_voted_as_before(
    store: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    path = store()
    result = vote(path, parameters=VoteParameters(min_patches=1))
    assert result.probs[1] == pytest.approx(0.6, abs=1e-6)
    receipt = SlideStore(path).patches().vote_receipt("mean")
    assert receipt.parameters == VoteParameters(min_patches=1).to_json()
    assert not {"prior", "prior_shift", "learned", "interval_level"} & set(receipt.parameters)
    assert call("vote", path, "--prior", "training") != 0
    assert "does not record the class frequencies" in capsys.readouterr().err


def test_learned_errors_give_the_interval_of_the_stored_result(store: Any, tmp_path: Path, capsys: Any) -> None:
    path = store(**RECORD)
    start = VoteParameters(min_patches=1)
    distances = tuple((0.1 * rank, 0.1 * rank) for rank in range(1, 40))
    learned = LearnedVote(
        canonical(start.score_settings()), ("benign", "IDC"), 39, (0.95, 0.05), (0.1, 0.1), distances, (1.0,) * 39
    )
    fitted = FittedVote(replace(start, learned=learned), ("benign", "IDC"), "f" * 64, 39, (), "", 0, {}, "")
    (tmp_path / "vote.json").write_text(json.dumps(fitted.to_json()))
    assert call("vote", path, "--parameters", tmp_path / "vote.json") == 0
    assert "90 % interval with the model's error (39 validation patients)" in capsys.readouterr().out
    result = stored_vote(SlideStore(path).patches(), "mean")
    assert result.leading == 1  # 0.14 is above the fitted threshold of 0.05
    scale = np.sqrt(CORRECTED * (1 - CORRECTED) / result.n_effective + 0.01)
    assert result.share_interval.high[1] == pytest.approx(CORRECTED + 3.6 * scale, abs=1e-5)
    shown = result_record(StoredResults(SlideStore(path)))["share_interval"]
    assert shown["validation_patients"] == 39
    assert shown["level"] == 0.9
    assert shown["probability_low"]["IDC"] == 0.0
    assert call("vote", path, "--parameters", tmp_path / "vote.json", "--temperature", 2) == 0
    assert "no interval with the model's error: what was learned holds for other settings" in capsys.readouterr().out


def test_a_method_without_the_fit_it_needs_is_warned_of_once(store: Any, caplog: pytest.LogCaptureFixture) -> None:
    path = store(**RECORD)
    voting_stage._warn_once.cache_clear()
    with caplog.at_level(logging.WARNING, logger="wsikit"):
        for seed in (1, 2):
            vote(path, parameters=VoteParameters("noisy_or", seed=seed))
        vote(path, parameters=VoteParameters("hard"))
    assert [record.getMessage().split(":")[0] for record in caplog.records] == ["voting method noisy_or needs a fit"]


def test_a_prior_that_a_model_cannot_be_corrected_to_is_refused_before_a_run(
    tmp_path: Path, slide_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert describe_model().prior is None
    assert call("run", slide_path, "-o", tmp_path / "out", "--prior", "balanced") == 2
    assert "does not record the class frequencies" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
