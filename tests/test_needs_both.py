"""pipelines/needs_both.py: what the captions are, and that the fusion gains on both branches."""

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


@pytest.fixture(scope="module")
def small(script: ModuleType) -> Any:
    """The configuration at a reduced size: fields of 280 µm, one level, one seed."""
    record = yaml.safe_load((PIPELINES / "configs" / "needs_both.yaml").read_text(encoding="utf-8"))
    record |= {"threads": 1, "training_slides": [100, 150], "test_slides": [200, 230], "patches": 4, "per_side": 5}
    record |= {"levels": [{"name": "10 % wrong", "wrong": 0.1, "missing": 0.1}], "seeds": [0]}
    return script.Settings.model_validate(record)


@pytest.fixture(scope="module")
def slides(script: ModuleType, small: Any) -> tuple[Any, Any]:
    return tuple(script.make_slides(seeds, small) for seeds in (small.training_slides, small.test_slides))


def test_captions_state_the_count_over_the_field_and_not_the_matrix(slides: tuple[Any, Any]) -> None:
    for slide in slides[0].slides:
        assert f"Mitoses and karyorrhexis {slide.stated_grade}: " in slide.caption
        assert "nuclei per mm²" in slide.caption
        assert "fibrillary" not in slide.caption
        assert "neuropil" not in slide.caption


def test_wrong_captions_are_another_slides_and_missing_ones_are_empty(
    script: ModuleType, slides: tuple[Any, Any]
) -> None:
    part = slides[0]
    n = len(part.slides)
    level = script.Level(name="", wrong=0.3, missing=0.2)
    source = script.assigned(n, level, np.random.default_rng(0))
    assert (source == -1).sum() == round(0.2 * n)
    assert ((source != np.arange(n)) & (source >= 0)).sum() == round(0.3 * n)
    captions = part.captions(source)
    for slide, caption in zip(part.of, captions, strict=True):
        whose = source[slide]
        assert caption == "" if whose < 0 else caption.startswith(part.slides[whose].caption)


def test_a_weak_text_branch_costs_nothing_and_without_captions_the_fusion_is_the_image(
    script: ModuleType, small: Any, slides: tuple[Any, Any]
) -> None:
    training, test = slides
    right = small.model_copy(update={"levels": (script.Level(name="all right", wrong=0.0, missing=0.0),)})
    rows = script.figures([script.run_seed(right, training, test, 0)], test)
    found = {(row.arm, row.captions): row for row in rows}
    own, silent = found[script.ROBUST, script.OWN], found[script.ROBUST, script.NONE]
    assert own.gain[script.IMAGE][0] > -0.03  # a text branch of 50 slides is worth little, and must not cost
    assert silent.gate == 0
    assert silent.gain[script.IMAGE][0] == pytest.approx(0.0, abs=1e-9)
