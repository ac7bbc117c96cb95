"""pipelines/needs_both.py: what captions and their field say, and that the fusion gains on both branches."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import yaml

PIPELINES = Path(__file__).parents[1] / "pipelines"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("needs_both", PIPELINES / "needs_both.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["needs_both"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def settings(script: ModuleType, **changes: object) -> Any:
    record = yaml.safe_load((PIPELINES / "configs" / "needs_both.yaml").read_text(encoding="utf-8"))
    return script.Settings.model_validate(record | {"threads": 1, "seeds": [0]} | changes)


@pytest.fixture(scope="module")
def small(script: ModuleType) -> Any:
    """The configuration at a reduced size: few slides, fields of 340 µm, one level of each kind."""
    levels = [{"name": "patches", "wrong": 0.3, "missing": 0.2}]
    return settings(script, training_slides=[100, 130], test_slides=[200, 220], patches=4, per_side=6, levels=levels)


@pytest.fixture(scope="module")
def slides(script: ModuleType, small: Any) -> tuple[Any, Any]:
    return tuple(script.make_slides(seeds, small) for seeds in (small.training_slides, small.test_slides))


def right(part: Any) -> np.ndarray:
    return np.arange(sum(len(slide.counted) for slide in part.slides))


def test_every_patch_has_a_caption_of_its_own_counts_which_does_not_state_neuropil(
    script: ModuleType, slides: tuple[Any, Any]
) -> None:
    part = slides[0]
    patches = part.captioned(right(part), 1000.0)
    first = 0
    for slide in part.slides:
        for row in slide.rows:
            assert patches.captions[first] == script.caption_of(slide.counted[row])
            np.testing.assert_array_equal(patches.facts[first], slide.counted[row])
            first += 1
    assert first == len(patches)
    assert patches.fact_names == ("nuclei_per_mm2", "mki_per_5000")
    assert len(set(patches.captions)) > len(patches) / 2
    assert not any("neuropil" in caption or "fibril" in caption for caption in patches.captions)


@pytest.mark.parametrize("of", ["patches", "fields"])
def test_wrong_captions_are_another_slides_and_missing_ones_are_empty(
    script: ModuleType, slides: tuple[Any, Any], of: str
) -> None:
    part = slides[0]
    n, per_field = len(right(part)), len(part.slides[0].counted)
    source = script.assigned(part, script.Level(name="", of=of, wrong=0.3, missing=0.2), np.random.default_rng(0))
    wrong = (source != np.arange(n)) & (source >= 0)
    assert (source == -1).mean() == pytest.approx(0.2, abs=1e-3)
    assert wrong.mean() == pytest.approx(0.3, abs=1e-3)
    assert (source[wrong] // per_field != np.flatnonzero(wrong) // per_field).all()
    of_field = (source.reshape(-1, per_field) // per_field).std(axis=1)
    assert (of_field == 0).all() if of == "fields" else (of_field > 0).all()
    patches = part.captioned(source, 1000.0)
    counted = np.concatenate([slide.counted for slide in part.slides])
    for row, caption, facts in zip(part.rows, patches.captions, patches.facts, strict=True):
        assert (caption == "") == (source[row] == -1) == np.isnan(facts).all()
        if source[row] >= 0:
            np.testing.assert_array_equal(facts, counted[source[row]])


def test_the_field_states_the_index_that_a_patch_does_not_also_if_three_captions_in_ten_are_wrong(
    script: ModuleType, slides: tuple[Any, Any]
) -> None:
    part = slides[0]
    truth = np.array([slide.mki for slide in part.slides])[part.of]

    def correlation(level: Any) -> tuple[float, float]:
        """Of the planted index of the field with that of a patch's caption, and with the mean of its field."""
        patches = part.captioned(script.assigned(part, level, np.random.default_rng(0)), 1000.0)
        stated = np.isfinite(patches.facts[:, 1])
        alone = np.corrcoef(patches.facts[stated, 1], truth[stated])[0, 1]
        return float(alone), float(np.corrcoef(patches.around[:, 1], truth)[0, 1])

    alone, of_field = correlation(script.Level(name="", wrong=0.3))
    assert of_field > 0.7 > 0.5 > alone
    assert abs(correlation(script.Level(name="", wrong=1.0))[1]) < 0.35  # nothing of its own is left


def test_all_arms_are_measured_and_without_captions_the_fusion_is_the_image(
    script: ModuleType, small: Any, slides: tuple[Any, Any], tmp_path: Path
) -> None:
    training, test = slides
    found = [script.run_seed(small, training, test, 0)]
    rows = script.figures(found, test)
    by = {(row.arm, row.captions): row for row in rows}
    own = {arm for arm, way in by if way == script.OWN}
    assert own == {"image only", "text only", "mean of both", "PRMF robust", *script.ARMS} | {
        script.TITLES[name] for name in script.RIVALS
    }
    silent = by[script.ROBUST, script.NONE]
    assert silent.gate == 0
    assert silent.gain[script.IMAGE] == pytest.approx((0.0, 0.0, 0.0), abs=1e-9)
    assert silent.auc_gain[script.IMAGE] == pytest.approx((0.0, 0.0, 0.0), abs=1e-9)
    text = script.page(small, rows, script.limits(small, training, test), training, test)
    assert text.count("| PRMF robust |") == 4
    script.contact_sheet(training, tmp_path / "patches.png", most=2)
    assert (tmp_path / "patches.png").stat().st_size > 10_000


@pytest.mark.slow
def test_the_fusion_gains_three_points_on_each_branch_also_with_wrong_captions(script: ModuleType) -> None:
    """90 + 60 slides and one seed; docs/results.md has the figures of the configuration."""
    levels = [{"name": "right"}, {"name": "wrong", "wrong": 0.3}]
    chosen = settings(script, training_slides=[100, 190], test_slides=[300, 360], levels=levels)
    training, test = (script.make_slides(seeds, chosen) for seeds in (chosen.training_slides, chosen.test_slides))
    rows = script.figures([script.run_seed(chosen, training, test, 0)], test)
    by = {(row.level, row.arm, row.captions): row for row in rows}
    for level in ("right", "wrong"):
        own = by[level, script.ROBUST, script.OWN]
        for branch in (script.IMAGE, script.TEXT):
            gain, low, _ = own.auc_gain[branch]
            assert gain > 0.03, (level, branch)
            assert low > 0, (level, branch)
        assert by[level, script.ROBUST, script.SHUFFLED].auc_gain[script.IMAGE][0] < 0.01
