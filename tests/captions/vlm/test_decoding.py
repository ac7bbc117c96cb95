"""A caption depends on its patch, the model and what was asked for; on nothing hidden, and on no neighbour."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from wsikit.captions.vlm import Sampling, load_vlm
from wsikit.errors import RequestError

Pictures = npt.NDArray[np.uint8]


def _alone(captioner: Any, pictures: Pictures) -> list[str]:
    return [captioner.caption(picture[None], mpp=0.5)[0].text for picture in pictures]


@pytest.mark.parametrize("sample", [None, Sampling(seed=7, temperature=0.8)])
def test_no_batch_changes_a_caption(tiny_folder: Path, pictures: Pictures, sample: Sampling | None) -> None:
    captioner = load_vlm(tiny_folder, image_px=56, device="cpu", batch=5, max_new_tokens=12, sample=sample)
    alone = _alone(captioner, pictures)
    assert len(set(alone)) > 1
    for order in (np.arange(9), np.arange(9)[::-1], np.array([4, 4, 0, 8])):
        together = [caption.text for caption in captioner.caption(pictures[order], mpp=0.5)]
        assert together == [alone[i] for i in order]


def test_rounding_in_a_batch_cannot_decide_a_word(tiny_folder: Path) -> None:
    # noise images on a grey ground: nearly alike, and each with a word or two that hang by a hair
    pictures = np.random.default_rng(0).integers(126, 130, (48, 56, 56, 3), dtype=np.uint8)
    captioner = load_vlm(tiny_folder, image_px=56, device="cpu", batch=48, max_new_tokens=12)
    alone = _alone(captioner, pictures)

    def rounded(_: Any, __: Any, logits: torch.Tensor) -> torch.Tensor:
        """Far worse than float32 rounds, still below half the margin."""
        if len(logits) == 1:
            return logits
        return logits + 8e-4 * torch.randn(logits.shape, generator=torch.Generator().manual_seed(1)).clamp(-1, 1)

    captioner.model.lm_head.register_forward_hook(rounded)
    assert [caption.text for caption in captioner.caption(pictures, mpp=0.5)] == alone
    assert captioner.n_alone > 0


def test_a_checkpoint_cannot_bring_decoding_habits_along(tiny_folder: Path, pictures: Pictures, tmp_path: Path) -> None:
    habits = {"do_sample": True, "temperature": 9.0, "repetition_penalty": 3.0, "num_beams": 1, "max_length": 5}
    other = tmp_path / "tiny"
    shutil.copytree(tiny_folder, other)
    path = other / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | habits))
    plain, changed = (load_vlm(folder, image_px=56, device="cpu", max_new_tokens=10) for folder in (tiny_folder, other))
    assert [c.text for c in changed.caption(pictures, mpp=0.5)] == [c.text for c in plain.caption(pictures, mpp=0.5)]
    assert changed.fingerprint()["model"] == plain.fingerprint()["model"]


def test_sampling_is_repeated_by_its_seed_and_changed_by_another(tiny_folder: Path, pictures: Pictures) -> None:
    def texts(seed: int) -> list[str]:
        captioner = load_vlm(
            tiny_folder, image_px=56, device="cpu", max_new_tokens=12, sample=Sampling(seed, temperature=2.0)
        )
        return [caption.text for caption in captioner.caption(pictures, mpp=0.5)]

    assert texts(1) == texts(1) != texts(2)


def test_sampling_draws_words_as_often_as_their_probabilities_say() -> None:
    from wsikit.captions.vlm.decoding import _SeededSampling

    scores = torch.log(torch.tensor([[0.5, 0.3, 0.2]])).expand(4000, 3)
    draw = _SeededSampling(Sampling(seed=5, temperature=1.0), [str(i).encode() for i in range(4000)])
    drawn = draw(torch.zeros(1, 1, dtype=torch.long), scores).argmax(dim=1)
    assert np.bincount(drawn.numpy(), minlength=3) / 4000 == pytest.approx([0.5, 0.3, 0.2], abs=0.03)


def test_a_temperature_of_zero_is_refused() -> None:
    with pytest.raises(RequestError, match="expected more than 0"):
        Sampling(seed=1, temperature=0.0)
