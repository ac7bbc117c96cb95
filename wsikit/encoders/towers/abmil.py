"""Gated attention pooling over patches (ABMIL, Ilse 2018; CLAM's single branch) with the weights of a local file.

The file (safetensors) has the names of CLAM's attention net, and its widths are read from it:

    attention_net.0.{weight (H, D), bias}              features to hidden ones, ReLU; may be missing
    attention_net.K.attention_a.0.{weight (A, H), bias}     tanh
    attention_net.K.attention_b.0.{weight (A, H), bias}     sigmoid
    attention_net.K.attention_c.{weight (1, A), bias}       score of a patch, softmax over patches

K is 2 or 3 as the hidden layer had dropout or not. The vector is the weighted mean of the hidden features, (H,). There
are no random weights here: an untrained attention is the mean with noise.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsikit.encoders.slide_protocol import SlideEncoderInfo
from wsikit.encoders.towers.slide_module import SlideModule, digest, source_of
from wsikit.encoders.towers.weights import State, read_state, with_weights
from wsikit.errors import ModelError

_PLACE = re.compile(r"^(?:attention_net\.\d+\.)?(attention_[abc]\..*)$")


class GatedAttention(nn.Module):
    """Score of each row, (N, 1): c(tanh(a x) · sigmoid(b x))."""

    def __init__(self, given: int, hidden: int) -> None:
        super().__init__()
        self.attention_a = nn.Sequential(nn.Linear(given, hidden))
        self.attention_b = nn.Sequential(nn.Linear(given, hidden))
        self.attention_c = nn.Linear(hidden, 1)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.attention_c(torch.tanh(self.attention_a(x)) * torch.sigmoid(self.attention_b(x)))
        return scores


class Abmil(nn.Module):
    """Features (N, D) to the weighted mean of the hidden features, (H,)."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        super().__init__()
        self.first = nn.Linear(options["given"], options["width"]) if options["hidden_layer"] else None
        self.attention = GatedAttention(options["width"], options["attention"])

    def weights(self, features: Tensor) -> Tensor:
        """Attention of each patch, (N,); sums to 1."""
        return torch.softmax(self.attention(self.hidden(features))[:, 0], dim=0)

    def hidden(self, features: Tensor) -> Tensor:
        """Hidden features, (N, H)."""
        return features if self.first is None else functional.relu(self.first(features))

    def forward(self, features: Tensor, coords: Tensor, patch_size_lv0: float) -> Tensor:
        return self.weights(features) @ self.hidden(features)


def load(path: Path | str, *, name: str = "abmil", patch_encoder: str = "", device: str = "cpu") -> SlideModule:
    """Gated attention pooling with the weights of a file.

    Parameters
    ----------
    path
        Weights, `.safetensors`.
    name
        Name of the slide features.
    patch_encoder
        Encoder whose features it was trained on.

    Raises
    ------
    ModelError
        The file is missing, damaged, or of another architecture.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ModelError(f"{path}: attention pooling is read from .safetensors only; convert the file.")
    state = _renamed(read_state(path))
    hidden_layer = "first.weight" in state
    try:
        attention, width = state["attention.attention_a.0.weight"].shape
        given = state["first.weight"].shape[1] if hidden_layer else width
    except (KeyError, ValueError, IndexError) as error:
        raise ModelError(
            f"{path}: has no matrix attention_net.K.attention_a.0.weight; expected the attention net of CLAM's single "
            "branch."
        ) from error
    options = {"given": given, "width": width, "attention": attention, "hidden_layer": hidden_layer}
    module = with_weights(Abmil, options, state, path, unused=("classifiers.", "instance_classifiers."))
    assert isinstance(module, Abmil)
    info = SlideEncoderInfo(name, width, given, digest("abmil", module.state_dict()), patch_encoder, source_of(path))
    return SlideModule(module, module, info, device=device)


def _renamed(state: State) -> State:
    out = {}
    for name, value in state.items():
        if found := _PLACE.match(name):
            out[f"attention.{found[1]}"] = value
        elif name.startswith("attention_net.0."):
            out[name.replace("attention_net.0.", "first.")] = value
        else:
            out[name] = value
    return out
