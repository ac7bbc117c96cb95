"""`wsikit caption` as a user calls it: budgets, prompts, contradictory options, exit status."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import wsikit.captions
from wsikit.captions import Caption, CaptionerOptions
from wsikit.cli.caption import in_words
from wsikit.cli.main import main
from wsikit.inference.caption_columns import CaptionSummary, summarize_captions
from wsikit.slides.store import SlideStore
from wsikit.tiling.tile import tile


def call(*arguments: object) -> int:
    """Exit status of `wsikit ARGUMENTS`."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


@pytest.fixture
def store(slide_path: Path, tmp_path: Path) -> SlideStore:
    return tile(slide_path, tmp_path / "s.zarr")


class Parrot:
    """Returns the given captions in turn, and records the options with which it was loaded."""

    name, fact_names, batch = "parrot", (), 8

    def __init__(self, words: Sequence[str]) -> None:
        self.words, self.options, self.device = words, CaptionerOptions(), ""

    def load(self, spec: str, options: CaptionerOptions, *, device: str) -> Parrot:
        self.options, self.device = options, device
        return self

    def fingerprint(self) -> dict[str, Any]:
        return {"captioner": self.name, "prompt": self.options.prompt}

    def caption(self, images: npt.NDArray[np.uint8], *, mpp: float) -> list[Caption]:
        return [Caption(self.words[n % len(self.words)]) for n in range(len(images))]


@pytest.fixture
def parrot(monkeypatch: pytest.MonkeyPatch) -> Parrot:
    bird = Parrot(["Neuropil.", "I'm sorry.", "Poorly differentiated tissue."])
    monkeypatch.setattr(wsikit.captions, "load_captioner", bird.load)
    return bird


def test_with_a_budget_the_summary_counts_own_and_shared_captions(
    store: SlideStore, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("caption", store.folder, "--caption-budget", 3, "--similarity", 0.2) == 0
    found = summarize_captions(store.patches())
    assert found.described == 3
    assert f"3 of {found.patches} patches described by morphometry" in capsys.readouterr().out


def test_failures_and_removed_words_are_reported(
    store: SlideStore, parrot: Parrot, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("caption", store.folder, "--captioner", "some/bird") == 0
    said = capsys.readouterr().out
    found = summarize_captions(store.patches())
    assert f"{found.failures['refusal']} failed ({found.failures['refusal']} × refusal)" in said
    assert f"words naming the diagnosis removed from {found.scrubbed}" in said
    assert found.described + found.failures["refusal"] == found.patches


def test_a_store_without_any_successful_caption_is_a_failure(store: SlideStore, parrot: Parrot) -> None:
    parrot.words = ["I'm sorry."]
    assert call("caption", store.folder, "--captioner", "some/bird") == 1


def test_a_prompt_is_a_text_or_a_file_with_the_text(store: SlideStore, parrot: Parrot, tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_text("What is\nthere?\n", encoding="utf-8")
    for given, asked in ((tmp_path / "prompt.txt", "What is\nthere?"), ("Why?", "Why?"), ("x" * 5000, "x" * 5000)):
        call("caption", store.folder, "--captioner", "some/bird", "--prompt", given, "--device", "cpu")
        assert parrot.options.prompt == asked
        assert store.patches().attributes("caption")["made"]["prompt"] == asked
    assert parrot.device == "cpu"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--captioner", "oracle"],
        ["--adapter", "x"],
        ["--caption-similarity", "0.4"],
        ["--caption-budget", "3", "--caption-similarity", "1.5"],
        ["--model", "phantom-mmlnb"],
        ["--prompt", " "],
        ["--captioner", "http://127.0.0.1:9/v1#m", "--api-key-env", "NO_SUCH_VARIABLE_HERE"],
    ],
)
def test_contradictory_options_are_a_wrong_request(store: SlideStore, arguments: list[str]) -> None:
    assert call("caption", store.folder, *arguments) == 2
    assert "caption" not in store.patches().stored_columns()


def test_the_most_frequent_reasons_come_first_and_the_numbers_add_up() -> None:
    found = CaptionSummary(100, 50, 10, {"loop": 1, "empty": 20, "refusal": 3, "cut off": 2}, 0)
    assert found.without_text == 14
    assert in_words(found, "x") == (
        "50 of 100 patches described by x; 10 share a caption; 14 without text; "
        "26 failed (20 × empty, 3 × refusal, 2 × cut off)"
    )
