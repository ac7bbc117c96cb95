"""From the name of a slide encoder to the encoder, loaded from a local file. No torch unless it is needed."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from wsikit.encoders.slide_protocol import MeanPooling, SlideEncoder
from wsikit.errors import ModelError

SLIDE_ENCODERS: dict[str, tuple[str, str]] = {
    "abmil": ("wsikit.encoders.towers.abmil:load", ""),
    "chief": ("wsikit.encoders.towers.chief:load", "CHIEF_pretraining.pth"),
    "titan": ("wsikit.encoders.towers.titan:load", "model.safetensors"),
    "prism": ("wsikit.encoders.towers.prism:load", "model.safetensors"),
}
"""Kind: where its `load(path, …)` is, and the published name of its file of weights."""


def load_slide_encoder(name: str, /, *, device: str = "cpu", **options: Any) -> SlideEncoder:
    """Load an encoder of slides.

    Parameters
    ----------
    name
        `mean`, or `KIND:FILE`, with a kind of `SLIDE_ENCODERS`; FILE may be the folder of a model whose file has its
        published name.
    options
        Of the kind: `site` (CHIEF); `name`, `patch_encoder` (attention pooling).

    Raises
    ------
    ModelError
        There is no such encoder, or its file is missing or does not fit.

    Examples
    --------
    >>> load_slide_encoder("mean").info.name
    'mean'
    """
    if name == "mean":
        return MeanPooling()
    kind, _, place = name.partition(":")
    if kind not in SLIDE_ENCODERS or not place:
        kinds = ", ".join(f"{kind}:FILE" for kind in SLIDE_ENCODERS)
        raise ModelError(f"slide encoder {name!r} not found: expected mean, {kinds}.")
    source, published = SLIDE_ENCODERS[kind]
    path = Path(place).expanduser()
    if path.is_dir():
        if not published or not (path / published).is_file():
            raise ModelError(f"{path}: is a folder without {published or 'a file that is named'}; name the file.")
        path = path / published
    module, _, function = source.partition(":")
    load: Any = getattr(importlib.import_module(module), function)
    encoder: SlideEncoder = load(path, device=device, **options)
    return encoder
