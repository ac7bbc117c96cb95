"""Encoders whose images and texts share a space, by name; loaded at first use. No torch is imported before."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from wsikit._lazy import Once
from wsikit.encoders.prompts import PromptSet
from wsikit.encoders.protocol import EncoderInfo, PatchEncoder, TextImageEncoder
from wsikit.errors import ModelError, RequestError
from wsikit.models.text_scores import Floats, concept_places

DEFAULT_TEXT_ENCODER = "phantom-afloc"
"""The packaged encoder of images and texts."""

TextEncoderLike = TextImageEncoder | str | os.PathLike[str]
"""An encoder of images and texts, or what `wsikit.encoders.registry.load_encoder` takes."""


@dataclass(frozen=True)
class LazyTextEncoder:
    """What an encoder is, and the encoder itself when it is needed."""

    info: EncoderInfo
    load: Once[TextImageEncoder]

    @classmethod
    def of(cls, encoder: TextEncoderLike | None, *, device: str = "auto", download: bool = False) -> LazyTextEncoder:
        """From an encoder, or what `wsikit.encoders.registry.load_encoder` takes; None: the packaged one.

        Raises
        ------
        ModelError
            There is no such encoder, or it has no texts.
        """
        if encoder is not None and not isinstance(encoder, str | os.PathLike):
            given = encoder
            return cls(_with_texts(given.info), Once(lambda: _of_texts(given)))
        from wsikit.encoders.registry import describe_encoder, load_encoder

        name = DEFAULT_TEXT_ENCODER if encoder is None else encoder
        info = _with_texts(describe_encoder(name, download=download))
        return cls(info, Once(lambda: _of_texts(load_encoder(name, device=device, download=download))))


@cache
def text_fingerprint(name: str) -> str:
    """Fingerprint of an encoder of images and texts by its name; read once per process."""
    return LazyTextEncoder.of(name).info.fingerprint


def places_of(encoder: TextImageEncoder, concepts: Sequence[PromptSet]) -> Floats:
    """Places of K concepts in the encoder's space, float64 (K, S); all texts are encoded in one call."""
    texts = sorted({text for concept in concepts for text in concept.prompts})
    if not all(text.strip() for text in texts):
        raise RequestError("a prompt is empty: a text without words has no meaning that could be found")
    found = np.asarray(encoder.encode_texts(texts), dtype=np.float64)
    if found.ndim != 2 or len(found) != len(texts):
        raise ModelError(f"encoder {encoder.info.name}: {len(texts)} texts gave an array of shape {found.shape}")
    rows = {text: row for row, text in enumerate(texts)}
    return concept_places([found[[rows[text] for text in concept.prompts]] for concept in concepts])


def _with_texts(info: EncoderInfo) -> EncoderInfo:
    if info.shared_width is None:
        raise ModelError(
            f"encoder {info.name} has images only: its features share no space with texts. Choose one of the CLIP type "
            "(wsikit encoders lists them)."
        )
    return info


def _of_texts(encoder: PatchEncoder) -> TextImageEncoder:
    if not isinstance(encoder, TextImageEncoder):
        raise ModelError(f"encoder {encoder.info.name} encodes no texts, though its description states a shared space.")
    return encoder
