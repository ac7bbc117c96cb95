"""What an encoder is built from, decided before anything heavy is imported. No torch here."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from wsikit.encoders.protocol import EncoderInfo
from wsikit.encoders.transform import Transform

REVISION = 1
"""Raised when the features of unchanged weights change by a change of our code."""

Kind = Literal["timm", "transformers", "clip", "open-clip", "tower", "torchscript", "onnx", "plug-in"]

Pooling = Literal["model", "cls", "mean", "cls+mean", "pooler"]
"""`model`: as the model gives it; `cls`: class token; `mean`: mean of the patch tokens, without class and register
tokens; `cls+mean`: both, one after the other; `pooler`: the pooled output of a transformers model."""
POOLINGS: tuple[Pooling, ...] = ("model", "cls", "mean", "cls+mean", "pooler")

RANDOM_NOTICE = "Random weights, from a fixed seed: for trials of speed. The features mean nothing."


@dataclass(frozen=True)
class Recipe:
    """Architecture, weights, pooling and transform of one encoder."""

    name: str
    kind: Kind
    architecture: str
    """Name in timm, model type of transformers, name of a tower or plug-in; of a file its path."""
    width: int
    transform: Transform
    patch_px: int
    mpp: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    """What the architecture is built with."""
    pooling: Pooling = "model"
    weights: tuple[Path, ...] = ()
    """Files of weights; empty: random weights."""
    folder: Path | None = None
    """Folder of the model, with its configuration and tokenizer."""
    digest: str = ""
    """sha256 of the weights, or what random weights are made from."""
    source: str = ""
    licence: str = ""
    notice: str = ""
    shared_width: int | None = None

    def info(self) -> EncoderInfo:
        """What is stored with the features."""
        return EncoderInfo(
            name=self.name,
            width=self.width,
            patch_px=self.patch_px,
            mpp=self.mpp,
            fingerprint=self.fingerprint(),
            source=self.source,
            licence=self.licence,
            notice=self.notice,
            shared_width=self.shared_width,
        )

    def fingerprint(self) -> str:
        """sha256 over weights, architecture, pooling, transform and the revision of our code."""
        parts = {
            "revision": REVISION,
            "kind": self.kind,
            "architecture": self.architecture if self.kind not in ("torchscript", "onnx") else "",
            "options": dict(self.options),
            "pooling": self.pooling,
            "transform": self.transform.record(),
            "weights": self.digest,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def towers() -> Mapping[str, str]:
    """Loaders of published architectures that are part of this version: `module:function` by name."""
    if importlib.util.find_spec("wsikit.encoders.towers") is None:
        return {}
    found: Mapping[str, str] = importlib.import_module("wsikit.encoders.towers").TOWERS
    return found


def column_name(text: str) -> str:
    """A name as columns have it: lower case, digits, dots and hyphens.

    >>> column_name("random:vit_small_patch16_224"), column_name("paige-ai/Virchow2")
    ('random-vit-small-patch16-224', 'paige-ai-virchow2')
    """
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.") or "encoder"
