"""Model inputs from images and texts, the same for training and for captioning.

All images are resized to one side, so all prompts of a model have the same tokens; only the answers differ in length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from wsikit.captions.calls import joint_prompt, name_of_image
from wsikit.errors import ModelError

DEFAULT_PROMPT = "You are a pathologist. Describe what is seen under the microscope in this image of a tumour."
IGNORED = -100
"""Label of a token that the loss ignores, by the convention of torch and transformers."""

Images = npt.NDArray[np.uint8] | Sequence[npt.NDArray[np.uint8]]
Batch = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Chat:
    """A prompt on one image, or on several, in the chat template of a model."""

    processor: Any
    """The processor of the model (transformers)."""
    prompt: str
    image_px: int
    """Every image is resized to this side, px (Pillow, bicubic), before the processor gets it."""

    def inputs(self, images: Images) -> Batch:
        """Model inputs up to the start of the answer, with `input_ids` (B, L).

        Parameters
        ----------
        images
            uint8 (B, H, W, 3), or B of them of any size.
        """
        return self.inputs_of_calls([[image] for image in images])

    def inputs_of_calls(self, calls: Sequence[Images]) -> Batch:
        """Model inputs of B prompts, each on the same number of images, up to the start of the answer."""
        pictures = [[resize(image, self.image_px) for image in images] for images in calls]
        number = len(pictures[0]) if pictures else 1
        self.processor.tokenizer.padding_side = "left"  # an answer must directly follow its prompt
        text = self._render(None, number)
        try:
            batch = self.processor(
                text=[text] * len(pictures),
                images=pictures,
                return_tensors="pt",
                padding=True,
            )
        except (ValueError, TypeError, IndexError) as error:
            what = "one image" if number == 1 else f"{number} images"
            raise ModelError(
                f"the model's processor ({type(self.processor).__name__}) does not accept {what} and text: {error}"
            ) from error
        return {name: value for name, value in batch.items() if isinstance(value, torch.Tensor)}

    def answer_ids(self, answer: str) -> list[int]:
        """Tokens of an answer in the chat template; the last one is the end-of-turn token."""
        question, full = self._render(None), self._render(answer)
        if not full.startswith(question):
            raise ModelError(
                "the model's chat template does not put the answer after the prompt; such a model cannot be fine-tuned."
            )
        tokenizer = self.processor.tokenizer
        ids: list[int] = tokenizer(full[len(question) :], add_special_tokens=False)["input_ids"]
        end = tokenizer.eos_token_id
        if end in ids:  # a template may add a line break after the end of the turn, which is not part of the answer
            return ids[: ids.index(end) + 1]
        return [*ids, end]

    def training_batch(self, images: Images, answers: Sequence[str]) -> Batch:
        """Prompts followed by their answers, and `labels` (B, L) in which only the answers count.

        The tokens of the prompts are exactly those of `inputs`; the answers are appended to them.
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

    def _render(self, answer: str | None, images: int = 1) -> str:
        content: list[dict[str, Any]] = [{"type": "image"}, {"type": "text", "text": self.prompt}]
        if images > 1:
            content = [
                part
                for index in range(images)
                for part in ({"type": "text", "text": name_of_image(index)}, {"type": "image"})
            ]
            content.append({"type": "text", "text": joint_prompt(self.prompt, images)})
        messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
        if answer is not None:
            messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
        text: str = self.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=answer is None)
        return text


def resize(image: npt.NDArray[np.uint8], side_px: int) -> npt.NDArray[np.uint8]:
    """Resize an image, uint8 (H, W, 3), to (side_px, side_px, 3); unchanged pixels if it has that size. Always a copy.

    Examples
    --------
    >>> resize(np.zeros((8, 4, 3), np.uint8), 16).shape
    (16, 16, 3)
    """
    if image.shape[:2] == (side_px, side_px):
        return np.array(image)
    from PIL import Image

    return np.array(Image.fromarray(image).resize((side_px, side_px), Image.Resampling.BICUBIC))
