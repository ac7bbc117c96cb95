"""The packaged captioner: that it runs and keeps to its card; and that fine-tuning teaches it what it cannot say."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import wsikit.captions
from wsikit.captions import Morphometry, fact_f1, parse
from wsikit.captions.vlm import load_vlm, packaged_captioners
from wsikit.captions.vlm.chat import Chat
from wsikit.captions.vlm.loading import choose_place, load_base
from wsikit.captions.vlm.tiny import save_tiny
from wsikit.phantom.patches import PhantomPatch, phantom_patches
from wsikit.training.captioner.finetune import finetune_captioner
from wsikit.training.captioner.scores import best_constant
from wsikit.training.captioner.settings import FinetuneSettings
from wsikit.training.captioner.words import without_numbers
from wsikit.training.datasets import ImageTable

NAME = "phantom-captioner"
FOLDER = Path(wsikit.captions.__file__).parent / "zoo" / NAME
MPP = 0.5


@pytest.fixture(scope="module")
def patches() -> list[PhantomPatch]:
    """Ten slides that no captioner was trained on, sixteen patches each."""
    return list(phantom_patches(range(5_000_000, 5_000_010), 16, borderline=True))


def test_measured_captions_without_numbers_state_the_same_facts(patches: list[PhantomPatch]) -> None:
    for caption in Morphometry().caption(np.stack([patch.image for patch in patches]), mpp=MPP):
        words = without_numbers(caption.text)
        assert parse(words) == parse(caption.text)
        assert not re.search(r"\d", words.replace("mm²", ""))


def test_the_packaged_captioner_beats_any_one_caption_said_of_all(patches: list[PhantomPatch]) -> None:
    images = np.stack([patch.image for patch in patches[:96]])
    references = [without_numbers(caption.text) for caption in Morphometry().caption(images, mpp=MPP)]
    said = [caption.text for caption in load_vlm(NAME, device="cpu", batch=32).caption(images, mpp=MPP)]
    floor = fact_f1(references, [best_constant(references)] * 96, graded=True).f1
    assert fact_f1(references, said, graded=True).f1 > floor + 0.08
    assert len(set(said)) > 15


def test_the_packaged_captioner_is_small_and_its_card_tells_its_figures() -> None:
    assert NAME in packaged_captioners()
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 2e6
    card, metrics = (
        (FOLDER / "README.md").read_text(encoding="utf-8"),
        json.loads((FOLDER / "metrics.json").read_text()),
    )
    for score in metrics["phantom"] + metrics["real"]:
        assert f"| {score['fact_f1']:.3f} | {score['fact_f1_graded']:.3f} |" in card


class _Images:
    def __init__(self, patches: list[PhantomPatch]) -> None:
        self._patches = patches

    def read(self, rows: list[int]) -> list[np.ndarray]:
        return [self._patches[row].image for row in rows]


def _measured_table(patches: list[PhantomPatch]) -> ImageTable:
    """Patches with their measured captions, a slide counting as a patient."""
    found = Morphometry().caption(np.stack([patch.image for patch in patches]), mpp=MPP)
    n = len(patches)
    return ImageTable(
        files=tuple(f"{patch.seed}_{row}.png" for row, patch in enumerate(patches)),
        captions=tuple(without_numbers(caption.text) for caption in found),
        classes=(None,) * n,
        patients=tuple(str(patch.seed) for patch in patches),
        slides=(None,) * n,
        coords=None,
        source="phantom.csv",
        pixels=_Images(patches),
        rows=tuple(range(n)),
    )


def _struck_dumb(folder: Path, images: list[np.ndarray]) -> Path:
    """A base that sees tissue and cannot speak of it: the packaged captioner, its language part drilled to babble."""
    model, processor = load_base(FOLDER, choose_place("cpu"))
    chat = Chat(processor, "Describe the tissue in this image.", 224)
    torch.manual_seed(0)
    language = [weight for name, weight in model.named_parameters() if "visual" not in name]
    optimiser = torch.optim.AdamW(language, lr=2e-3)
    for step in range(25):
        batch = images[step * 8 % 96 : step * 8 % 96 + 8]
        loss = model(**chat.training_batch(batch, ["A picture of tissue."] * len(batch))).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    save_tiny(model, processor, folder)
    shutil.copy(FOLDER / "wsikit.json", folder)
    return folder


def test_fine_tuning_makes_a_dumb_base_describe_slides_it_has_never_seen(
    patches: list[PhantomPatch], tmp_path: Path
) -> None:
    """Fact-F1 on unseen slides: from below 0.2 to above 0.8, and clear of the best single caption.

    By LoRA of rank 64 on the language part alone, as by default; the vision part stays as it came.
    """
    table = _measured_table(patches)
    held = [row for row, name in enumerate(table.patients) if int(name or 0) >= 5_000_007]
    taught = [row for row in range(len(table)) if row not in held]
    base = _struck_dumb(tmp_path / "base", table.images(taught))
    settings = FinetuneSettings(
        mpp=MPP,
        epochs=4,
        lr=2e-3,
        alpha=64,
        dropout=0.0,
        batch=8,
        accumulate=1,
        schedule="cosine",
        turns=True,
        gradient_checkpointing=False,
        max_new_tokens=40,
        score_at_most=8,
    )
    finetune_captioner(table.select(taught), model=base, out=tmp_path / "out", settings=settings, device="cpu")
    references, images = [table.captions[row] or "" for row in held], table.images(held)
    before = load_vlm(base, device="cpu", batch=32).describe(images)
    after = load_vlm(base, adapter=tmp_path / "out", device="cpu", batch=32).describe(images)
    floor = [best_constant([table.captions[row] or "" for row in taught])] * len(held)
    assert fact_f1(references, before).f1 <= 0.2
    assert fact_f1(references, after).f1 >= 0.8
    assert fact_f1(references, after, graded=True).f1 > fact_f1(references, floor, graded=True).f1 + 0.04


def test_a_model_built_from_its_configuration_learns_from_nothing(
    tiny_folder: Path, make_table: Callable[..., ImageTable], tmp_path: Path
) -> None:
    """Weights at random, every linear layer adapted: pictures of unseen patients get the caption of their colour."""
    table = make_table(160, patients=16)
    held = [row for row, name in enumerate(table.patients) if name in ("patient 1", "patient 2", "patient 3")]
    taught = [row for row in range(160) if row not in held]
    settings = FinetuneSettings(
        image_px=56,
        targets=r"model\.(?:visual|language_model)\..+",
        epochs=5,
        lr=5e-3,
        rank=32,
        alpha=32,
        batch=8,
        accumulate=1,
        gradient_checkpointing=False,
        max_new_tokens=12,
        score_at_most=8,
    )
    finetune_captioner(table.select(taught), model=tiny_folder, out=tmp_path / "out", settings=settings, device="cpu")
    references, images = [table.captions[row] or "" for row in held], table.images(held)
    before = load_vlm(tiny_folder, device="cpu", image_px=56, max_new_tokens=12).describe(images)
    after = load_vlm(tiny_folder, adapter=tmp_path / "out", device="cpu").describe(images)
    assert fact_f1(references, before, graded=True).f1 <= 0.2
    assert fact_f1(references, after, graded=True).f1 >= 0.9
