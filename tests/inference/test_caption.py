"""The caption stage with a slow captioner: no request is repeated, no caption is lost, each caption has its source."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from wsikit.captions import Caption, load_captioner
from wsikit.captions.base import SAMPLE_PATCHES, Captioner, batch_of, in_parallel
from wsikit.captions.cache import CachedCaptioner
from wsikit.errors import ModelError
from wsikit.inference.budget import Budget
from wsikit.inference.caption import caption
from wsikit.inference.caption_columns import NO_ROW, read_captions, summarize_captions
from wsikit.slides.store import SlideStore
from wsikit.store import table as table_module
from wsikit.store.table import JOURNALS
from wsikit.tiling.patches import PatchParameters
from wsikit.tiling.stream import read_patches
from wsikit.tiling.tile import tile, tile_slide


class SlowCaptioner:
    """Each patch gets its own text, determined by its pixels; calls in parallel fail."""

    name = "slow"
    fact_names: tuple[str, ...] = ()
    batch = 4

    def __init__(self, prompt: str = "What is it?", stop_after: int | None = None, raw: dict[str, str] | None = None):
        self.prompt, self.stop_after, self.raw = prompt, stop_after, raw or {}
        self.asked = 0
        self.threads: set[int] = set()
        self._busy = threading.Lock()

    def fingerprint(self) -> dict[str, Any]:
        return {"captioner": self.name, "prompt": self.prompt}

    def words(self, image: npt.NDArray[np.uint8]) -> str:
        return f"Neuropil of kind {hashlib.sha256(image.tobytes()).hexdigest()[:6]}."

    def caption(self, images: npt.NDArray[np.uint8], *, mpp: float) -> list[Caption]:
        assert self._busy.acquire(blocking=False), "two threads at once"
        try:
            assert len(images) <= self.batch
            self.threads.add(threading.get_ident())
            if self.stop_after is not None and self.asked + len(images) > self.stop_after:
                raise ModelError("the captioner fell over")
            self.asked += len(images)
            found = [self.words(image) for image in images]
            return [Caption(self.raw.get(text, text), source=self.name) for text in found]
        finally:
            self._busy.release()


@pytest.fixture
def store(slide_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SlideStore:
    """Some 60 patches in chunks of 20 rows."""
    monkeypatch.setattr(table_module, "ROWS_PER_CHUNK", 20)
    return tile(slide_path, tmp_path / "s.zarr", patch_px=96)


def expected_texts(store: SlideStore) -> list[str]:
    """The text of `SlowCaptioner` for each patch, computed without the stage."""
    table = store.patches()
    return [SlowCaptioner().words(image) for image in read_patches(store, table.grid, table.coords).images]


def test_every_patch_gets_the_text_of_its_own_pixels(store: SlideStore) -> None:
    captioner = SlowCaptioner()
    found = read_captions(caption(store, captioner=captioner))
    assert found.texts.tolist() == expected_texts(store)
    assert found.rows.tolist() == list(range(len(found.rows)))
    assert not any(found.failures)
    assert len(captioner.threads) == 1


def test_captions_made_before_an_error_are_not_requested_again(store: SlideStore) -> None:
    broken = SlowCaptioner(stop_after=33)
    with pytest.raises(ModelError):
        caption(store, captioner=broken)
    assert broken.asked == 32
    again = SlowCaptioner()
    found = read_captions(caption(store, captioner=again))
    assert again.asked == len(found.texts) - 32
    assert found.texts.tolist() == expected_texts(store)


def test_a_killed_process_loses_at_most_the_current_batch(store: SlideStore, tmp_path: Path) -> None:
    script = tmp_path / "killed.py"
    script.write_text(
        "import os, signal, sys\n"
        "import wsikit.store.table\n"
        "wsikit.store.table.ROWS_PER_CHUNK = 20\n"
        "from wsikit.captions import Caption\n"
        "from wsikit.inference.caption import caption\n"
        "class Killed:\n"
        "    name, fact_names, batch, said = 'slow', (), 4, 0\n"
        "    def fingerprint(self):\n"
        "        return {'captioner': 'slow', 'prompt': 'What is it?'}\n"
        "    def caption(self, images, *, mpp):\n"
        "        self.said += len(images)\n"
        "        if self.said > 24:\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
        "        return [Caption('Neuropil before.')] * len(images)\n"
        "caption(sys.argv[1], captioner=Killed())\n"
    )
    ended = subprocess.run([sys.executable, str(script), str(store.folder)], check=False)
    assert ended.returncode == -signal.SIGKILL
    captioner = SlowCaptioner()
    found = read_captions(caption(store, captioner=captioner))
    assert captioner.asked == len(found.texts) - 24
    assert (found.texts == "Neuropil before.").sum() == 24


def test_equal_settings_keep_captions_and_other_settings_replace_them(store: SlideStore) -> None:
    first = SlowCaptioner()
    table = caption(store, captioner=first)
    digest = table.receipt("caption").digest
    again = SlowCaptioner()
    caption(store, captioner=again)
    assert again.asked == 0
    other = SlowCaptioner(prompt="And why?")
    caption(store, captioner=other)
    assert other.asked == len(table)
    assert table.receipt("caption").digest != digest
    assert table.attributes("caption")["made"]["prompt"] == "And why?"


def test_older_captions_stay_until_all_new_ones_are_complete(store: SlideStore) -> None:
    table = caption(store, captioner="morphometry")
    before = table.read("caption").tolist()
    with pytest.raises(ModelError):
        caption(store, captioner=SlowCaptioner(stop_after=9))
    assert table.read("caption").tolist() == before
    caption(store, captioner=SlowCaptioner())
    assert table.read("caption").tolist() == expected_texts(store)


def test_measured_captions_leave_nothing_of_a_language_model_behind(store: SlideStore) -> None:
    table = caption(store, captioner=SlowCaptioner(), budget=Budget(9, 0.5))
    assert (read_captions(table).rows == NO_ROW).any()
    caption(store, captioner="morphometry")
    assert not {"caption_source", "caption_failure", "caption_raw"} & set(table.stored_columns())
    assert (read_captions(table).rows == np.arange(len(table))).all()
    assert "caption_facts" in table.columns()


def test_output_that_is_no_caption_is_a_failure_and_hidden_from_classifiers(store: SlideStore) -> None:
    words = expected_texts(store)
    raw = {
        words[0]: "I'm sorry, I cannot describe it.",
        words[1]: "cells cells cells cells cells",
        words[2]: "",
        words[3]: "Poorly differentiated neuroblastoma with neuropil.",
        words[4]: "Neuropil. The nuclei are",
    }
    table = caption(store, captioner=SlowCaptioner(raw=raw))
    found = read_captions(table)
    assert found.failures[:5].tolist() == ["refusal", "loop", "empty", "", ""]
    assert found.texts[:5].tolist() == ["", "", "", "neuroblastoma with neuropil.", "Neuropil."]
    assert found.rows[:5].tolist() == [-1, -1, -1, 3, 4]
    assert found.raw[:5].tolist() == [raw[word] for word in words[:5]]
    assert not any(found.raw[5:])
    summary = summarize_captions(table)
    assert (summary.described, dict(summary.failures)) == (len(table) - 3, {"refusal": 1, "loop": 1, "empty": 1})
    assert summary.scrubbed == 1


def test_patches_that_cannot_be_read_are_recorded_not_described(
    slide_path: Path, tmp_path: Path, damage_tile: Any
) -> None:
    damage_tile(slide_path, 5, 4)
    store = tile(slide_path, tmp_path / "s.zarr", patch_px=96)
    table = caption(store, captioner=SlowCaptioner())
    unread = table.read("readable") == 0
    found = read_captions(table)
    assert 0 < unread.sum() < len(table)
    assert (found.failures[unread] == "the patch could not be read").all()
    assert (found.rows[unread] == NO_ROW).all()
    assert all(found.texts[~unread])


def test_equal_pixels_are_described_once_in_a_store_and_across_stores(
    tmp_path: Path, write_slide: Any, pixels: npt.NDArray[np.uint8]
) -> None:
    even = np.full_like(pixels, 240)
    even[200:900, 200:1200] = np.tile(pixels[500:516, 700:716], (44, 63, 1))[:700, :1000]
    whole = PatchParameters(0.5, 96, min_tissue=1.0)
    stores = [
        tile_slide(write_slide(tmp_path / f"{n}.tiff", even), tmp_path / f"{n}.zarr", patches=whole) for n in "ab"
    ]
    slow = SlowCaptioner()
    captioner = CachedCaptioner(slow)
    tables = [caption(store, captioner=captioner) for store in stores]
    kinds = len(set(expected_texts(stores[0])))
    assert kinds < len(tables[0])
    assert slow.asked == kinds
    for store, table in zip(stores, tables):
        assert read_captions(table).texts.tolist() == expected_texts(store)


def test_the_journal_is_removed_when_the_columns_are_complete(store: SlideStore) -> None:
    with pytest.raises(ModelError):
        caption(store, captioner=SlowCaptioner(stop_after=20))
    table = store.patches()
    journals = table.folder / JOURNALS
    assert [path for path in journals.iterdir() if path.is_dir()]
    caption(store, captioner=SlowCaptioner(prompt="Another?"))
    caption(store, captioner=SlowCaptioner())
    assert not [path for path in journals.iterdir() if path.is_dir()]
    assert JOURNALS not in table.stored_columns()


def test_a_larger_budget_continues_from_a_smaller_one(store: SlideStore) -> None:
    small, large = SlowCaptioner(), SlowCaptioner()
    table = caption(store, captioner=small, budget=Budget(8, 0.9))
    assert small.asked <= 8
    first = set(read_captions(table).rows.tolist()) - {NO_ROW}
    caption(store, captioner=large, budget=Budget(len(table), 0.9))
    assert large.asked == len(table) - len(first)


def test_a_shared_caption_has_its_source_row_and_the_others_have_no_text(store: SlideStore) -> None:
    captioner = SlowCaptioner()
    found = read_captions(caption(store, captioner=captioner, budget=Budget(12, 0.6)))
    words = expected_texts(store)
    assert captioner.asked <= 12
    for text, row in zip(found.texts, found.rows):
        assert text == ("" if row == NO_ROW else words[row])
    assert all(found.rows[row] == row for row in set(found.rows.tolist()) - {NO_ROW})


def test_facts_measured_on_another_patch_are_not_shared(store: SlideStore) -> None:
    table = caption(store, captioner="morphometry", budget=Budget(6, 0.0))
    found, facts = read_captions(table), table.read("caption_facts")
    shared = found.rows != np.arange(len(table))
    assert shared.any()
    assert all(found.texts[shared])
    assert np.isnan(facts[shared]).all()
    assert np.isfinite(facts[~shared]).any(axis=1).all()


def test_a_captioner_runs_in_parallel_only_if_it_declares_it() -> None:
    assert in_parallel(load_captioner("morphometry"))
    assert not in_parallel(SlowCaptioner())
    assert isinstance(SlowCaptioner(), Captioner)
    assert isinstance(CachedCaptioner(SlowCaptioner()), Captioner)
    assert batch_of(CachedCaptioner(SlowCaptioner())) == SlowCaptioner.batch


def test_captions_relative_to_the_slide_are_fitted_once_and_kept(slide_path: Path, tmp_path: Path) -> None:
    store = tile(slide_path, tmp_path / "coarse.zarr", mpp=1.0, patch_px=32)
    table = caption(store, captioner="morphometry-in-slide")
    images = read_patches(store, table.grid, table.coords).images
    assert 100 < len(images) <= SAMPLE_PATCHES
    expected = load_captioner("morphometry-in-slide").fit(images, mpp=1.0).caption(images, mpp=1.0)
    texts = table.read("caption").tolist()
    assert texts == [found.text for found in expected]
    assert sum("In its slide" in text for text in texts) > 50
    written = [path.stat().st_mtime_ns for path in sorted((Path(store.folder) / "patches").rglob("*/c/*"))]
    caption(store, captioner="morphometry-in-slide")
    assert written == [path.stat().st_mtime_ns for path in sorted((Path(store.folder) / "patches").rglob("*/c/*"))]
    assert written
