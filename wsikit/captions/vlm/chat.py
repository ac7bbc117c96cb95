"""The one place where images and words become a model's input: for training and for captioning alike.

All images come at one side in pixels, so all prompts of a model have the same tokens; answers differ in length alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from wsikit.errors import ModelError

DEFAULT_PROMPT = "You are a pathologist. Describe what is seen under the microscope in this image of a tumour."
IGNORED = -100
"""Label of a token that the loss leaves out; torch's and transformers' convention."""

Images = npt.NDArray[np.uint8] | Sequence[npt.NDArray[np.uint8]]
Batch = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Chat:
    """One question about one image, in the words of a model's own chat template."""

    processor: Any
    """transformers' processor of the model."""
    prompt: str
    image_px: int
    """Every image is brought to this side (Pillow, bicubic) before the processor sees it."""

    def inputs(self, images: Images) -> Batch:
        """What the model is asked: everything up to the point where its answer begins.

        Parameters
        ----------
        images
            uint8 (B, H, W, 3), or B of them of any size.
        """
        pictures = [resize(image, self.image_px) for image in images]
        self.processor.tokenizer.padding_side = "left"  # an answer must follow its own prompt at once
        text = self._question()
        try:
            batch = self.processor(
                text=[text] * len(pictures),
                images=[[picture] for picture in pictures],
                return_tensors="pt",
                padding=True,
            )
        except (ValueError, TypeError, IndexError) as error:
            raise ModelError(
                f"the model's processor ({type(self.processor).__name__}) takes no chat of one image and text: {error}"
            ) from error
        return {name: value for name, value in batch.items() if isinstance(value, torch.Tensor)}

    def answer_ids(self, answer: str) -> list[int]:
        """Tokens of an answer as the chat template ends it: its last is the token that ends a turn."""
        question, full = self._question(), self._render(answer)
        if not full.startswith(question):
            raise ModelError(
                "the model's chat template does not put the answer behind the question; it cannot be trained here."
            )
        tokenizer = self.processor.tokenizer
        ids: list[int] = tokenizer(full[len(question) :], add_special_tokens=False)["input_ids"]
        end = tokenizer.eos_token_id
        if end in ids:  # a template may add a line break behind the end of the turn: nobody ever sees it
            return ids[: ids.index(end) + 1]
        return [*ids, end]

    def training_batch(self, images: Images, answers: Sequence[str]) -> Batch:
        """Questions with their answers behind them, and `labels` (B, L) in which only the answers count.

        The question's tokens are those of `inputs`, token for token: the answers are appended, not found again.
        """
        batch = self.inputs(images)
        ids = [self.answer_ids(answer) for answer in answers]
        longest = max(len(row) for row in ids)
        padding = self.processor.tokenizer.pad_token_id
        tail = torch.full((len(ids), longest), padding)
        mask = torch.zeros_like(tail)
        for row, tokens in enumerate(ids):
            tail[row, : len(tokens)] = torch.tensor(tokens)
            mask[row, : len(tokens)] = 1
        question = batch["input_ids"]
        for name, value in batch.items():
            if value.shape == question.shape and name != "input_ids":
                more = mask if name == "attention_mask" else torch.zeros_like(tail)
                batch[name] = torch.cat([value, more.to(value.dtype)], dim=1)
        batch["input_ids"] = torch.cat([question, tail], dim=1)
        batch["labels"] = torch.cat([torch.full_like(question, IGNORED), tail.masked_fill(mask == 0, IGNORED)], dim=1)
        return batch

    def _question(self) -> str:
        return self._render(None)

    def _render(self, answer: str | None) -> str:
        messages: list[dict[str, Any]] = [
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": self.prompt}]}
        ]
        if answer is not None:
            messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
        text: str = self.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=answer is None)
        return text


def resize(image: npt.NDArray[np.uint8], side_px: int) -> npt.NDArray[np.uint8]:
    """uint8 (H, W, 3) to (side_px, side_px, 3); the same pixels if it has that size. A copy: torch wants to own it."""
    if image.shape[:2] == (side_px, side_px):
        return np.array(image)
    from PIL import Image

    return np.array(Image.fromarray(image).resize((side_px, side_px), Image.Resampling.BICUBIC))
