"""Inference over a whole patch set, batch by batch: logits and gates as arrays of N rows."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from wsikit.models.config import FieldTermsConfig
from wsikit.models.field_terms import logits_of, with_field
from wsikit.models.image_context import image_context
from wsikit.models.mmlnb import MMLNB
from wsikit.models.slide_context import SAMPLE
from wsikit.training.batches import Texts
from wsikit.training.data import PatchSet

BATCH = 64


@dataclass(frozen=True)
class Outputs:
    """Row i is patch i; float32."""

    logits: npt.NDArray[np.float32]
    """(N, C) of the fused prediction."""
    logits_image: npt.NDArray[np.float32]
    """(N, C) of the image branch."""
    logits_text: npt.NDArray[np.float32]
    """(N, C) of the text branch; NaN without a caption."""
    gate: npt.NDArray[np.float32]
    """(N,) in [0, 1]."""

    @property
    def probs(self) -> npt.NDArray[np.float64]:
        """(N, C) of the fused prediction."""
        return softmax(self.logits)


def outputs_of(
    model: MMLNB, data: PatchSet, texts: Texts | None = None, *, batch: int = BATCH, precision: str = "fp32"
) -> Outputs:
    """Run `model` in eval mode on its device; training modes are restored afterwards."""
    texts = texts or Texts.of(model, data)
    device = next(model.parameters()).device
    modes = {name: part.training for name, part in model.parts().items()}
    model.eval()
    rows = np.arange(len(data))
    try:
        context = slide_contexts(model, data, batch=batch)
        parts = [_forward(model, data, texts, context, chosen, device, precision) for chosen in _cut(rows, batch)]
    finally:
        for name, part in model.parts().items():
            part.train(modes[name])
    outputs = Outputs(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
    return outputs if model.config.prmf.field is None else in_field(outputs, data, model.config.prmf.field)


def in_field(outputs: Outputs, data: PatchSet, field: FieldTermsConfig) -> Outputs:
    """The outputs with what the patches around add to each, slide by slide; unchanged where places are not known."""
    if data.places_um is None:
        return outputs
    logits = outputs.logits.copy()
    image, text = softmax(outputs.logits_image), softmax(outputs.logits_text)
    slides = data.slide_ids
    for slide in np.unique(slides):
        rows = np.flatnonzero(slides == slide)
        logits[rows] = logits_of(with_field(field, image[rows], text[rows], outputs.gate[rows], data.places_um[rows]))
    return replace(outputs, logits=logits)


def slide_contexts(
    model: MMLNB, data: PatchSet, *, batch: int = BATCH, most: int = SAMPLE
) -> npt.NDArray[np.float32] | None:
    """What the slide of each patch looks like, float32 (N, 2, d_img): mean and spread of the image features of at most
    `most` of its patches, evenly spread; None for a model that sees the patch alone."""
    if model.image_context is None:
        return None
    slides = data.slide_ids
    names = np.unique(slides)
    found = np.empty((len(data), 2, model.image.width), dtype=np.float32)
    for name in names:
        rows = np.flatnonzero(slides == name)
        sample = rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), most)).astype(np.int64))]
        features = torch.from_numpy(image_features(model, data.images[sample], batch=batch))
        found[rows] = image_context(features).numpy()
    return found


@torch.inference_mode()
def image_features(model: MMLNB, images: npt.NDArray[np.uint8], *, batch: int = BATCH) -> npt.NDArray[np.float32]:
    """Features (N, D) of patches, uint8 (N, P, P, 3), by the image branch in eval mode on its device."""
    device = next(model.parameters()).device
    model.image.eval()
    parts = [
        model.image(torch.from_numpy(np.ascontiguousarray(images[rows])).to(device)).float().cpu().numpy()
        for rows in _cut(np.arange(len(images)), batch)
    ]
    return np.concatenate(parts)


def softmax(logits: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Softmax over the rows of logits (N, C).

    >>> softmax(np.array([[0.0, 0.0]]))
    array([[0.5, 0.5]])
    """
    exponent = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    probs: npt.NDArray[np.float64] = exponent / exponent.sum(axis=1, keepdims=True)
    return probs


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[object]:
    """Context manager that runs a forward pass at this precision."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.bfloat16 if precision == "bf16" else torch.float16)


@torch.inference_mode()
def _forward(
    model: MMLNB,
    data: PatchSet,
    texts: Texts,
    context: npt.NDArray[np.float32] | None,
    rows: npt.NDArray[np.int64],
    device: torch.device,
    precision: str,
) -> tuple[npt.NDArray[np.float32], ...]:
    inputs = inputs_of(data, texts, context, rows, device)
    with autocast(device, precision):
        out = model(**inputs)
    values = (out.logits, out.logits_img, out.logits_txt, out.gate)
    found = tuple(value.float().cpu().numpy() for value in values)
    found[2][~inputs["present"].cpu().numpy()] = np.nan
    return found


def inputs_of(
    data: PatchSet,
    texts: Texts,
    context: npt.NDArray[np.float32] | None,
    rows: npt.NDArray[np.int64],
    device: torch.device,
) -> dict[str, Tensor]:
    """The arguments of `MMLNB.forward` for some rows of a patch set, by name; those that are not known are left out.

    `context` is that of `slide_contexts`.
    """
    tokens = texts(rows)
    arrays = {
        "images": np.ascontiguousarray(data.images[rows]),
        "ids": tokens.ids,
        "mask": tokens.mask,
        "present": tokens.present,
        "numbers": tokens.numbers,
        "context": None if context is None else context[rows],
    }
    return {name: torch.from_numpy(array).to(device) for name, array in arrays.items() if array is not None}


def branch_features(model: MMLNB, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Features of both branches, (B, d_img) and (B, d_text), for the arguments of `MMLNB.forward`; the second is not
    meaningful without a caption."""
    image = model.in_slide(model.image(inputs["images"]), inputs.get("context"))
    return image, model.text_features(inputs["ids"], inputs["mask"], inputs.get("numbers"))


def _cut(rows: npt.NDArray[np.int64], size: int) -> list[npt.NDArray[np.int64]]:
    return [rows[first : first + size] for first in range(0, len(rows), size)]
