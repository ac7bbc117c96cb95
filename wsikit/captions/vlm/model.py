"""The generative captioner: any image-text-to-text model of transformers on this disk, with or without a LoRA adapter.

Each patch is a separate prompt, unless several images per call are requested; batches only increase the speed. It
states no facts: `wsikit.captions.parse` extracts terms from its texts.
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
from wsikit.captions.calls import asking_of, check_images_per_call, read_answers
from wsikit.captions.fields import Field
from wsikit.captions.vlm.chat import DEFAULT_PROMPT, Chat, resize
from wsikit.captions.vlm.decoding import MARGIN, Decoding, Sampling, generate, set_greedy
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
_REVISION = 1  # raise it when the same model gives other captions
_MPP_TOLERANCE = 0.1


@dataclass(frozen=True)
class Source:
    """The arguments of `load_vlm`: what another process needs to load the same captioner."""

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
    field: Field | None = None
    images_per_call: int = 1


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
    field: Field | None = None,
    images_per_call: int = 1,
) -> VisionLanguage:
    """Load a vision-language model as a captioner.

    Parameters
    ----------
    path_or_id
        Name of a packaged captioner, folder of a model, or hub id of a model in the local cache.
    adapter
        Folder of a LoRA adapter trained on that model.
    prompt
        Text that accompanies each patch. Default: the prompt of the training, if recorded, else `DEFAULT_PROMPT`.
    image_px
        Side to which every patch or field is resized, px. Default: that of the training, if recorded, else that of the
        field, if given, else 224.
    device, dtype
        "auto": CUDA in bfloat16, Apple GPUs in float16, else the CPU in float32.
    batch
        Batch size. It changes the speed, never a caption.
    max_new_tokens
        Maximum length of a caption. Default: that of the training, if recorded, else 128, the maximum input of MMLNB's
        text branch.
    sample
        Sample words, with a seed. Default: greedy decoding.
    quantize
        "4bit": a quarter of the memory, by bitsandbytes on CUDA.
    merge
        Merge the adapter into the weights: slightly faster, equal except for rounding.
    field
        Describe fields of this size instead of single patches: see `wsikit.captions.fields`.
    images_per_call
        Number of images in one prompt. Where an answer does not have exactly one text for each, its images are
        described one by one.

    Raises
    ------
    ModelError
        The model is not on this disk or of another type, or the adapter was trained on another base.
    RequestError
        An option is not supported on this machine.

    Examples
    --------
    >>> captioner = load_vlm("phantom-captioner", device="cpu", max_new_tokens=4)
    >>> captioner.name, captioner.fact_names
    ('phantom-captioner', ())
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
        field=field,
        images_per_call=images_per_call,
    )
    return _load(source)


def _load(source: Source) -> VisionLanguage:
    if source.quantize is not None and source.merge:
        raise RequestError("merge and quantize exclude each other: an adapter cannot be merged into 4-bit weights")
    folder = find_vlm(source.model)
    place = choose_place(source.device, source.dtype)
    found = None if source.adapter is None else find_adapter(source.adapter)
    model, processor = load_base(folder, place, quantize=source.quantize)
    base = model_fingerprint(folder)
    record = read_record(folder)
    adapter_print = None
    if found is not None:
        model = attach(model, found, base_fingerprint=base, merge=source.merge)
        record |= found.record or {}
        adapter_print = adapter_fingerprint(found.folder)
    chat_record = record.get("chat", {})
    chat = Chat(
        processor,
        source.prompt if source.prompt is not None else chat_record.get("prompt", DEFAULT_PROMPT),
        source.image_px or chat_record.get("image_px", DEFAULT_IMAGE_PX if source.field is None else source.field.px),
    )
    tokens = source.max_new_tokens or chat_record.get("max_new_tokens", Decoding.max_new_tokens)
    captioner = VisionLanguage(
        model,
        chat,
        place,
        decoding=Decoding(tokens, source.sample),
        batch=source.batch,
        trained_mpp=record.get("mpp"),
        images_per_call=source.images_per_call,
    )
    captioner.field = source.field
    captioner.name = Path(source.model).name or source.model
    captioner.source = source
    captioner.identity = {
        "model": base,
        "adapter": adapter_print,
        "merged": source.merge,
        "quantize": source.quantize,
    }
    return captioner


class VisionLanguage:
    """Captioner around a loaded model. `load_vlm` creates it; fine-tuning evaluates the model in training with it.

    Not thread-safe: one model on one device.
    """

    fact_names: tuple[str, ...] = ()
    name = "vlm"
    source: Source | None = None
    identity: dict[str, Any] = {}
    field: Field | None = None
    """The field that it describes; None: single patches."""

    def __init__(
        self,
        model: Any,
        chat: Chat,
        place: Place,
        *,
        decoding: Decoding | None = None,
        batch: int = 16,
        trained_mpp: float | None = None,
        images_per_call: int = 1,
    ) -> None:
        if batch < 1:
            raise RequestError(f"batch {batch}: must be at least 1")
        self.model, self.chat, self.place = model, chat, place
        self.images_per_call = check_images_per_call(images_per_call)
        self.batch = max(1, batch // images_per_call) * images_per_call
        self.decoding = decoding or Decoding()
        self.trained_mpp = trained_mpp
        self.n_alone = 0
        """Number of patches that were captioned again on their own, because two words had nearly equal logits."""
        self.split = 0
        """Number of calls with several images whose images were then described one by one."""
        self._scale_warning_given = False
        set_greedy(model, chat.processor.tokenizer)

    def fingerprint(self) -> dict[str, Any]:
        """Whatever decides a caption: model, adapter, prompt, image side, decoding, precision, library versions."""
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
            **asking_of(self.field, self.images_per_call),
        }

    def caption(self, images: npt.NDArray[np.uint8], *, mpp: float) -> list[Caption]:
        """Captions of patches, uint8 (B, H, W, 3) at `mpp` µm per pixel, in the same order.

        The model has no input for the pixel size. If it differs from that of the training, a warning is logged once.

        Raises
        ------
        RequestError
            The images are not uint8 (B, H, W, 3), or `mpp` is not a positive number.
        """
        check_patches(images, mpp)
        self._warn_scale_mismatch(images.shape[1] * mpp)
        return [Caption(text, {}, self.name) for text in self.describe(list(images))]

    def describe(self, images: Sequence[npt.NDArray[np.uint8]]) -> list[str]:
        """Texts for images of any size, uint8 (H, W, 3) each, in the same order."""
        if self.images_per_call > 1:
            return self._describe_in_calls(images)
        return self._describe_singly(images)

    def _describe_singly(self, images: Sequence[npt.NDArray[np.uint8]]) -> list[str]:
        texts: list[str] = []
        unfinished = 0
        for first in range(0, len(images), self.batch):
            pictures = [resize(image, self.chat.image_px) for image in images[first : first + self.batch]]
            tokens, cut = self._generate_stable([[picture] for picture in pictures])
            texts += [text.strip() for text in self._words(tokens)]
            unfinished += sum(cut)
        if unfinished:
            logger.warning(
                "%d of %d captions were cut at %d tokens; set a larger max_new_tokens.",
                unfinished,
                len(images),
                self.decoding.max_new_tokens,
            )
        return texts

    def _describe_in_calls(self, images: Sequence[npt.NDArray[np.uint8]]) -> list[str]:
        """Texts of images that are described `images_per_call` at a time; the rest, and images whose answers cannot be
        assigned, one by one."""
        size = self.images_per_call
        texts: list[str | None] = [None] * len(images)
        n_whole = len(images) // size * size
        for first in range(0, n_whole, self.batch):
            part = [resize(image, self.chat.image_px) for image in images[first : min(first + self.batch, n_whole)]]
            tokens, cut = self._generate_stable([part[i : i + size] for i in range(0, len(part), size)])
            for call, (answer, unfinished) in enumerate(zip(self._words(tokens), cut, strict=True)):
                found = None if unfinished else read_answers(answer, size)
                if found is not None:
                    texts[first + call * size : first + (call + 1) * size] = found
                else:
                    self.split += 1
                    if self.split == 1:
                        logger.warning(
                            "%s: no answer with exactly one text for each of %d images. These, and the images of other "
                            "such answers, are described one by one.",
                            self.name,
                            size,
                        )
        rows = [row for row, text in enumerate(texts) if text is None]
        alone = dict(zip(rows, self._describe_singly([images[row] for row in rows]), strict=True))
        return [alone[row] if text is None else text for row, text in enumerate(texts)]

    def _generate_stable(self, calls: list[list[npt.NDArray[np.uint8]]]) -> tuple[list[list[int]], list[bool]]:
        """Token ids of each answer, and whether it was cut. Calls with near-ties are answered again on their own."""
        keys = [hashlib.sha256(b"".join(picture.tobytes() for picture in pictures)).digest() for pictures in calls]
        margin = MARGIN[self.place.dtype] / (self.decoding.sample.temperature if self.decoding.sample else 1.0)
        answers = self._generate(calls, keys, margin)
        tokens, unfinished = list(answers.tokens), list(answers.unfinished)
        if len(calls) > 1:
            for index in (i for i, close in enumerate(answers.close) if close):
                alone = self._generate([calls[index]], [keys[index]], margin)
                tokens[index], unfinished[index] = alone.tokens[0], alone.unfinished[0]
                self.n_alone += 1
        return tokens, unfinished

    def _generate(self, calls: list[list[npt.NDArray[np.uint8]]], keys: list[bytes], margin: float) -> Any:
        batch = {name: self._placed(value) for name, value in self.chat.inputs_of_calls(calls).items()}
        decoding = replace(self.decoding, max_new_tokens=self.decoding.max_new_tokens * len(calls[0]))
        return generate(self.model, batch, decoding, margin=margin, keys=keys)

    def _placed(self, value: torch.Tensor) -> torch.Tensor:
        return value.to(self.place.device, self.place.dtype if value.is_floating_point() else None)

    def _words(self, tokens: list[list[int]]) -> list[str]:
        words: list[str] = self.chat.processor.tokenizer.batch_decode(
            tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return words

    def _warn_scale_mismatch(self, mpp_times_px: float) -> None:
        if self.trained_mpp is None or self._scale_warning_given:
            return
        seen = mpp_times_px / self.chat.image_px
        if abs(seen / self.trained_mpp - 1) > _MPP_TOLERANCE:
            self._scale_warning_given = True
            logger.warning(
                "%s was trained at %.3g µm/px and sees these patches at %.3g: sizes and amounts may be wrong.",
                self.name,
                self.trained_mpp,
                seen,
            )

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the arguments of `load_vlm`, not the weights."""
        if self.source is None:
            raise TypeError("a captioner around a model in training cannot be pickled")
        return _load, (replace(self.source),)

    def __repr__(self) -> str:
        return f"VisionLanguage({asdict(self.source) if self.source else self.name})"
