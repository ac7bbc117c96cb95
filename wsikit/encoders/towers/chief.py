"""CHIEF (hms-dbmi/CHIEF): gated attention over CTransPath features, trained with the anatomic site as a text.

`CHIEF_pretraining.pth` holds also the classifiers of its pre-training and a table of 19 sites (their CLIP text
embeddings, 768 wide). The slide features are the attention-weighted mean of the patch features as given, (768,); with a
site they are the weighted mean of the hidden features plus the site's projected text, (512,).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsikit.encoders.slide_protocol import SlideEncoderInfo
from wsikit.encoders.towers.abmil import GatedAttention
from wsikit.encoders.towers.slide_module import SlideModule, digest, source_of
from wsikit.encoders.towers.weights import read_state, with_weights
from wsikit.errors import RequestError

OPTIONS: dict[str, int] = {"given": 768, "hidden": 512, "attention": 256, "sites": 19, "text_width": 768}
SITES = (
    "brain",
    "breast",
    "bladder",
    "kidney",
    "prostate",
    "testis",
    "lung",
    "pancreas",
    "liver",
    "skin",
    "ovary",
    "cervix",
    "uterus",
    "colon",
    "esophagus",
    "stomach",
    "thyroid",
    "adrenal gland",
    "soft tissue",
)
"""Anatomic sites, as the rows of the table are numbered in `configs/anatomic_mapping.yaml` of CHIEF's repository."""
UNUSED = ("classifiers.", "instance_classifiers.", "att_head.")
_HIDDEN, _ATTENTION, _TEXT = "attention_net.0.", "attention_net.3.", "text_to_vision.0."


class Chief(nn.Module):
    """Features (N, 768) to (768,), or with a site to (512,)."""

    def __init__(self, options: Mapping[str, int]) -> None:
        super().__init__()
        o = OPTIONS | dict(options)
        self.attention_net = nn.ModuleDict(
            {"0": nn.Linear(o["given"], o["hidden"]), "3": GatedAttention(o["hidden"], o["attention"])}
        )
        self.text_to_vision = nn.ModuleDict({"0": nn.Linear(o["text_width"], o["hidden"])})
        self.register_buffer("organ_embedding", torch.zeros(o["sites"], o["text_width"]))

    def pooled(self, features: Tensor, site: int | None) -> Tensor:
        """Slide features of patch features (N, 768)."""
        hidden = functional.relu(self.attention_net["0"](features))
        weights = torch.softmax(self.attention_net["3"](hidden)[:, 0], dim=0)
        if site is None:
            return weights @ features
        text = self.text_to_vision["0"](self.get_buffer("organ_embedding")[site])
        return weights @ hidden + functional.relu(text)


def build(options: Mapping[str, Any]) -> Chief:
    """CHIEF without weights; `options` overrides `OPTIONS`, such as to shrink it."""
    return Chief(options)


def load(
    path: Path | str, options: Mapping[str, Any] | None = None, *, site: str | None = None, device: str = "cpu"
) -> SlideModule:
    """CHIEF's slide encoder with the weights of a file.

    Parameters
    ----------
    site
        Anatomic site, one of `SITES`.

    Raises
    ------
    ModelError
        The file is missing, damaged, or of another architecture.
    RequestError
        There is no such site.
    """
    o = OPTIONS | dict(options or {})
    if site is not None and site not in SITES[: o["sites"]]:
        raise RequestError(f"site {site!r}: unknown to CHIEF; expected one of {', '.join(SITES[: o['sites']])}.")
    row = None if site is None else SITES.index(site)
    module = with_weights(build, o, read_state(path), path, unused=UNUSED)
    assert isinstance(module, Chief)
    info = SlideEncoderInfo(
        "chief" if site is None else f"chief-{site.replace(' ', '-')}",
        o["given"] if site is None else o["hidden"],
        o["given"],
        digest(f"chief {row}", module.state_dict()),
        "ctranspath",
        source_of(path),
        "GPL-3.0; for non-commercial academic purposes, says its README",
    )
    return SlideModule(module, lambda features, *_: module.pooled(features, row), info, device=device)
