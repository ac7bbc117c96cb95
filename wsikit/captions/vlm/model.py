"""The generative captioner: any image-text-to-text model of transformers that is on this disk, with or without LoRA.

Each patch is asked about on its own; batches only make it faster. It states no facts: `captions.parse` reads them.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from wsikit.captions.base import Caption, check_patches
from wsikit.captions.vlm.chat import DEFAULT_PROMPT, Chat, resize
from wsikit.captions.vlm.decoding import MARGIN, Decoding, Sampling, generate, neutralise
from wsikit.captions.vlm.files import (
    adapter_fingerprint,
    find_adapter,
    find_vlm,
    model_fingerprint,
    read_record,
    text_id,
)
from wsikit.captions.vlm.loading import Place, Quantize, attach, choose_place, load_base
from wsikit.errors import RequestError

logger = logging.getLogger(__name__)

DEFAULT_IMAGE_PX = 224
_REVISION = 1  # raise it when the same model says other words
_MPP_TOLERANCE = 0.1


@dataclass(frozen=True)
class Source:
    """All that `load_vlm` was told: what another process needs to load the same captioner."""

    model: str
    adapter: str | None = None
    prompt: str | None = None
    image_px: int | None = None
    device: str = "auto"
    dtype: str = "auto"
    batch: int = 16
    max_new_tokens: int | None = None
    sample: Sampling | None = None
    quantize: Quantize | None = None
    merge: bool = False


def load_vlm(
    path_or_id: str | Path,
    *,
    adapter: str | Path | None = None,
    prompt: str | None = None,
    image_px: int | None = None,
    device: str = "auto",
    dtype: str = "auto",
    batch: int = 16,
    max_new_tokens: int | None = None,
    sample: Sampling | None = None,
    quantize: Quantize | None = None,
    merge: bool = False,
) -> VisionLanguage:
    """Load a captioner.

    Parameters
    ----------
    path_or_id
        A packaged captioner's name, a model's folder, or a hub id that is in the local cache already.
    adapter
        Folder of a LoRA adapter trained on that model.
    prompt
        What to ask about each patch. Default: what the adapter or model was trained with, else `DEFAULT_PROMPT`.
    image_px
        Side to which every patch is brought. Default: as trained with, else 224.
    device, dtype
        "auto": CUDA in bfloat16, Apple in float16, else the CPU in float32.
    batch
        Patches at once. It changes the speed, never a caption.
    max_new_tokens
        Longest caption. Default: as trained with, else 128, the most that MMLNB's text branch reads.
    sample
        Draw words at random by a seed. Default: the likeliest word, always.
    quantize
        "4bit": a quarter of the memory, through bitsandbytes on CUDA.
    merge
        Fold the adapter into the weights: a little faster, equal but for rounding.

    Raises
    ------
    ModelError
        If the model is not on this disk, is of another kind, or the adapter is of another base.
    RequestError
        If an option cannot be had here.
    """
    source = Source(
        model=str(path_or_id),
        adapter=None if adapter is None else str(adapter),
        prompt=prompt,
        image_px=image_px,
        device=device,
        dtype=dtype,
        batch=batch,
        max_new_tokens=max_new_tokens,
        sample=sample,
        quantize=quantize,
        merge=merge,
    )
    return _load(source)


def _load(source: Source) -> VisionLanguage:
    if source.quantize is not None and source.merge:
        raise RequestError("merge and quantize exclude each other: 4-bit weights cannot take an adapter in")
    folder = find_vlm(source.model)
    place = choose_place(source.device, source.dtype)
    found = None if source.adapter is None else find_adapter(source.adapter)
    model, processor = load_base(folder, place, quantize=source.quantize)
    base = model_fingerprint(folder)
    record = read_record(folder)
    print_of_adapter = None
    if found is not None:
        model = attach(model, found, base_fingerprint=base, merge=source.merge)
        record |= found.record or {}
        print_of_adapter = adapter_fingerprint(found.folder)
    asked = record.get("chat", {})
    chat = Chat(
        processor,
        source.prompt if source.prompt is not None else asked.get("prompt", DEFAULT_PROMPT),
        source.image_px or asked.get("image_px", DEFAULT_IMAGE_PX),
    )
    tokens = source.max_new_tokens or asked.get("max_new_tokens", Decoding.max_new_tokens)
    captioner = VisionLanguage(
        model, chat, place, decoding=Decoding(tokens, source.sample), batch=source.batch, trained_mpp=record.get("mpp")
    )
    captioner.name = Path(source.model).name or source.model
    captioner.source = source
    captioner.identity = {
        "model": base,
        "adapter": print_of_adapter,
        "merged": source.merge,
        "quantize": source.quantize,
    }
    return captioner


class VisionLanguage:
    """Captioner made of a loaded model; `load_vlm` makes it, fine-tuning asks the model in training through it.

    Not for several threads at once: one model, one device.
    """

    fact_names: tuple[str, ...] = ()
    name = "vlm"
    source: Source | None = None
    identity: dict[str, Any] = {}

    def __init__(
        self,
        model: Any,
        chat: Chat,
        place: Place,
        *,
        decoding: Decoding | None = None,
        batch: int = 16,
        trained_mpp: float | None = None,
    ) -> None:
        if batch < 1:
            raise RequestError(f"batch {batch}: must be at least 1")
        self.model, self.chat, self.place, self.batch = model, chat, place, batch
        self.decoding = decoding or Decoding()
        self.trained_mpp = trained_mpp
        self.n_alone = 0
        """Patches captioned again on their own, two words having been too close to tell apart in a batch."""
        self._told_scale = False
        neutralise(model, chat.processor.tokenizer)

    def fingerprint(self) -> dict[str, Any]:
        """What decides its words: model, adapter, prompt, image side, decoding, precision, library versions."""
        import peft
        import transformers

        return {
            "captioner": "vlm",
            "revision": _REVISION,
            "name": self.name,
            **self.identity,
            "prompt": self.chat.prompt,
            "prompt_id": text_id(self.chat.prompt),
            "image_px": self.chat.image_px,
            "decoding": self.decoding.to_json(),
            "dtype": str(self.place.dtype).removeprefix("torch."),
            "device": self.place.device.type,
            "versions": {m.__name__: m.__version__ for m in (torch, transformers, peft)},
        }

    def caption(self, images: npt.NDArray[np.uint8], *, mpp: float) -> list[Caption]:
        """Describe patches, uint8 (B, H, W, 3) at `mpp` µm per pixel, in their order.

        The scale is not told to the model. One that differs from the scale trained at is warned of, once.

        Raises
        ------
        RequestError
            If the images are not uint8 (B, H, W, 3) or `mpp` is not a positive number.
        """
        check_patches(images, mpp)
        self._mind_scale(images.shape[1] * mpp)
        return [Caption(text, {}, self.name) for text in self.describe(list(images))]

    def describe(self, images: Sequence[npt.NDArray[np.uint8]]) -> list[str]:
        """Captions of images of any sizes, uint8 (H, W, 3) each."""
        texts: list[str] = []
        unfinished = 0
        for first in range(0, len(images), self.batch):
            pictures = [resize(image, self.chat.image_px) for image in images[first : first + self.batch]]
            tokens, cut = self._answer(pictures)
            texts += [text.strip() for text in self._words(tokens)]
            unfinished += cut
        if unfinished:
            logger.warning(
                "%d of %d captions were cut at %d tokens; give a larger max_new_tokens.",
                unfinished,
                len(images),
                self.decoding.max_new_tokens,
            )
        return texts

    def _answer(self, pictures: list[npt.NDArray[np.uint8]]) -> tuple[list[list[int]], int]:
        """Token ids of each answer, and how many were cut; close calls are decided alone."""
        keys = [hashlib.sha256(picture.tobytes()).digest() for picture in pictures]
        margin = MARGIN[self.place.dtype] / (self.decoding.sample.temperature if self.decoding.sample else 1.0)
        answers = self._generate(pictures, keys, margin)
        tokens, unfinished = list(answers.tokens), list(answers.unfinished)
        if len(pictures) > 1:
            for index in (i for i, close in enumerate(answers.close) if close):
                alone = self._generate([pictures[index]], [keys[index]], margin)
                tokens[index], unfinished[index] = alone.tokens[0], alone.unfinished[0]
                self.n_alone += 1
        return tokens, sum(unfinished)

    def _generate(self, pictures: list[npt.NDArray[np.uint8]], keys: list[bytes], margin: float) -> Any:
        batch = {name: self._placed(value) for name, value in self.chat.inputs(pictures).items()}
        return generate(self.model, batch, self.decoding, margin=margin, keys=keys)

    def _placed(self, value: torch.Tensor) -> torch.Tensor:
        return value.to(self.place.device, self.place.dtype if value.is_floating_point() else None)

    def _words(self, tokens: list[list[int]]) -> list[str]:
        words: list[str] = self.chat.processor.tokenizer.batch_decode(
            tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return words

    def _mind_scale(self, mpp_times_px: float) -> None:
        if self.trained_mpp is None or self._told_scale:
            return
        seen = mpp_times_px / self.chat.image_px
        if abs(seen / self.trained_mpp - 1) > _MPP_TOLERANCE:
            self._told_scale = True
            logger.warning(
                "%s was trained at %.3g µm/px and sees these patches at %.3g: sizes and amounts may be misjudged.",
                self.name,
                self.trained_mpp,
                seen,
            )

    def __reduce__(self) -> tuple[Any, ...]:
        """To another process goes what it was loaded from, not the weights."""
        if self.source is None:
            raise TypeError("a captioner around a model in training cannot be sent to another process")
        return _load, (replace(self.source),)

    def __repr__(self) -> str:
        return f"VisionLanguage({asdict(self.source) if self.source else self.name})"
