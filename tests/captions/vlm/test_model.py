"""The interface of the generative captioner."""

from __future__ import annotations

import json
import logging
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from wsikit.captions.base import Captioner
from wsikit.captions.vlm import Sampling, load_vlm
from wsikit.errors import ModelError, RequestError
from wsikit.testing.captioners import check_captioner, sample_patches

Pictures = npt.NDArray[np.uint8]


def test_it_is_a_captioner_that_states_no_facts(tiny_folder: Path, pictures: Pictures) -> None:
    captioner = load_vlm(tiny_folder, image_px=56, device="cpu", max_new_tokens=4)
    assert isinstance(captioner, Captioner)
    assert captioner.fact_names == ()
    captions = captioner.caption(pictures[:2], mpp=0.5)
    assert [(caption.facts, caption.source) for caption in captions] == [({}, "tiny-qwen")] * 2
    assert captioner.caption(pictures[:0], mpp=0.5) == []


def test_it_conforms(tiny_folder: Path) -> None:
    captioner = load_vlm(tiny_folder, image_px=56, device="cpu", max_new_tokens=4)
    check_captioner(captioner, images=sample_patches(56))


def test_whatever_decides_a_caption_is_in_the_fingerprint(tiny_folder: Path) -> None:
    options: list[dict] = [
        {},
        {"prompt": "What is it?"},
        {"image_px": 112},
        {"max_new_tokens": 5},
        {"dtype": "bfloat16"},
        {"sample": Sampling(seed=1)},
        {"sample": Sampling(seed=2)},
        {"sample": Sampling(seed=2, temperature=0.1)},
    ]
    seen = [str(load_vlm(tiny_folder, device="cpu", **option).fingerprint()) for option in options]
    assert len(set(seen)) == len(options)
    assert str(load_vlm(tiny_folder, device="cpu", batch=3).fingerprint()) == seen[0]


def test_another_process_loads_the_same_captioner(tiny_folder: Path, pictures: Pictures) -> None:
    here = load_vlm(tiny_folder, image_px=56, device="cpu", prompt="Say.", max_new_tokens=8, sample=Sampling(seed=3))
    there = pickle.loads(pickle.dumps(here))
    assert there.fingerprint() == here.fingerprint()
    assert there.caption(pictures[:3], mpp=0.5) == here.caption(pictures[:3], mpp=0.5)


def test_an_image_of_floats_is_refused(tiny_folder: Path, pictures: Pictures) -> None:
    with pytest.raises(RequestError, match="expected uint8"):
        load_vlm(tiny_folder, device="cpu").caption(pictures.astype(np.float32), mpp=0.5)  # type: ignore[arg-type]


def test_a_cut_caption_is_reported(tiny_folder: Path, pictures: Pictures, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        load_vlm(tiny_folder, image_px=56, device="cpu", max_new_tokens=2).caption(pictures[:3], mpp=0.5)
    assert "3 of 3 captions were cut at 2 tokens" in caplog.text


def test_a_scale_other_than_that_of_the_training_gives_one_warning(
    tiny_folder: Path, pictures: Pictures, caplog: pytest.LogCaptureFixture
) -> None:
    captioner = load_vlm(tiny_folder, image_px=112, device="cpu", max_new_tokens=2)
    captioner.trained_mpp = 0.5
    captioner.caption(pictures[:1], mpp=1.0)  # 56 px of 1 µm, shown as 112 px of 0.5 µm
    assert "was trained at" not in caplog.text
    for _ in range(2):
        captioner.caption(pictures[:1], mpp=0.5)
    assert caplog.text.count("was trained at 0.5 µm/px and sees these patches at 0.25") == 1


def test_with_several_images_per_call_unusable_answers_are_replaced_by_those_of_single_images(
    tiny_folder: Path, pictures: npt.NDArray[np.uint8]
) -> None:
    alone = load_vlm(tiny_folder, device="cpu", image_px=56, max_new_tokens=6)
    joint = load_vlm(tiny_folder, device="cpu", image_px=56, max_new_tokens=6, images_per_call=4, batch=10)
    assert joint.batch == 8
    assert joint.describe(list(pictures)) == alone.describe(list(pictures))
    assert joint.split == 2  # 9 images: two calls of four, and one alone
    assert set(joint.fingerprint()) - set(alone.fingerprint()) == {"call"}


def test_several_images_in_one_prompt_get_the_answers_of_their_numbers(
    tiny_folder: Path, pictures: npt.NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    captioner = load_vlm(tiny_folder, device="cpu", image_px=56, images_per_call=2, batch=4)
    asked: list[int] = []

    def by_number(calls: list[list[npt.NDArray[np.uint8]]]) -> tuple[list[list[int]], list[bool]]:
        asked.append(len(calls[0]))
        rows = [[int(np.argmin([np.abs(p - x.astype(int)).sum() for p in pictures])) for x in call] for call in calls]
        return rows, [False] * len(rows)

    def words(tokens: list[list[int]]) -> list[str]:
        texts = [[f"Neuropil {row}." for row in rows] for rows in tokens]
        return [call[0] if len(call) == 1 else f'{{"2": "{call[1]}", "1": "{call[0]}"}}' for call in texts]

    monkeypatch.setattr(captioner, "_generate_stable", by_number)
    monkeypatch.setattr(captioner, "_words", words)
    assert captioner.describe(list(pictures)) == [f"Neuropil {row}." for row in range(9)]
    assert asked == [2, 2, 1]
    assert captioner.split == 0


def test_a_prompt_on_several_images_holds_all_of_them(tiny_folder: Path, pictures: npt.NDArray[np.uint8]) -> None:
    captioner = load_vlm(tiny_folder, device="cpu", image_px=56, images_per_call=2)
    one = captioner.chat.inputs(pictures[:1])
    two = captioner.chat.inputs_of_calls([list(pictures[:2]), list(pictures[2:4])])
    per_image = int((one["input_ids"] == captioner.model.config.image_token_id).sum())
    assert (two["input_ids"] == captioner.model.config.image_token_id).sum(dim=1).tolist() == [2 * per_image] * 2


@pytest.mark.parametrize("entry", ["hidden_size", "intermediate_size", "vocab_size"])
def test_a_model_much_larger_than_its_weights_is_refused_before_it_is_built(
    tiny_folder: Path, tmp_path: Path, entry: str
) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (config.get("text_config") or config)[entry] *= 2**16
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="many more than there are in this file"):
        load_vlm(folder, device="cpu")


def test_a_configuration_that_contradicts_itself_is_refused_in_one_line(tiny_folder: Path, tmp_path: Path) -> None:
    """transformers raises an error of a type of its own for it."""
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (config.get("text_config") or config)["num_hidden_layers"] += 5
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="num_hidden_layers") as found:
        load_vlm(folder, device="cpu")
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("fault", ["nan", "inf", "missing", "shape"])
def test_a_model_with_spoilt_weights_is_refused(
    tiny_folder: Path, tmp_path: Path, fault: str, refuses_spoilt_weights: Callable[..., None]
) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    load = lambda: load_vlm(folder, device="cpu")  # noqa: E731
    refuses_spoilt_weights(folder / "model.safetensors", fault, load, place=str(folder))
