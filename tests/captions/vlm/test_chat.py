"""One builder of prompts: what is asked in training is what is asked afterwards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from transformers import AutoProcessor

from wsikit.captions.vlm.chat import IGNORED, Chat
from wsikit.errors import ModelError

Pictures = npt.NDArray[np.uint8]
ANSWERS = ["No blood.", "Abundant blood. No neuropil.", "x"]


@pytest.fixture
def chat(tiny_folder: Path) -> Chat:
    return Chat(AutoProcessor.from_pretrained(tiny_folder), "What is there?", 56)


def test_training_asks_with_the_very_tokens_and_pixels_of_captioning(chat: Chat, pictures: Pictures) -> None:
    asked, taught = chat.inputs(pictures[:3]), chat.training_batch(pictures[:3], ANSWERS)
    length = asked["input_ids"].shape[1]
    assert torch.equal(taught["input_ids"][:, :length], asked["input_ids"])
    assert torch.equal(taught["pixel_values"], asked["pixel_values"])
    assert torch.equal(taught["image_grid_thw"], asked["image_grid_thw"])
    assert "What is there?" in chat.processor.tokenizer.decode(asked["input_ids"][0])


def test_only_the_answer_and_the_end_of_its_turn_are_in_the_loss(chat: Chat, pictures: Pictures) -> None:
    batch = chat.training_batch(pictures[:3], ANSWERS)
    tokenizer = chat.processor.tokenizer
    for labels, ids, answer in zip(batch["labels"], batch["input_ids"], ANSWERS):
        counted = labels[labels != IGNORED]
        assert tokenizer.decode(counted) == answer + "<|im_end|>"
        assert torch.equal(ids[labels != IGNORED], counted)


def test_no_padding_stands_between_question_and_answer(chat: Chat, pictures: Pictures) -> None:
    batch = chat.training_batch(pictures[:3], ANSWERS)
    first_answer = (batch["labels"] != IGNORED).int().argmax(dim=1)
    assert len(set(first_answer.tolist())) == 1
    assert batch["attention_mask"][:, : first_answer[0]].all()
    assert torch.equal(batch["attention_mask"].sum(dim=1) - first_answer, (batch["labels"] != IGNORED).sum(dim=1))


def test_patches_of_any_size_reach_the_model_at_one_grid(chat: Chat) -> None:
    images = [np.zeros((h, w, 3), np.uint8) for h, w in ((224, 224), (50, 50), (56, 56), (100, 300))]
    grids = chat.inputs(images)["image_grid_thw"]
    assert grids.tolist() == [[1, 4, 4]] * 4


def test_a_template_that_reorders_the_turns_is_refused(chat: Chat) -> None:
    chat.processor.chat_template = "{% for m in messages|reverse %}{{ m['role'] }}{% endfor %}"
    with pytest.raises(ModelError, match="cannot be fine-tuned"):
        chat.answer_ids("No blood.")
