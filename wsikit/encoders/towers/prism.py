"""PRISM's slide encoder (paige-ai/Prism): a Perceiver whose 513 latents read the Virchow features of all patches.

Of `model.safetensors` the names `image_resampler.*` are used; its text decoder (BioGPT) is not. The Perceiver has 8
layers, most of which share their weights: all layers one transformer of 6 blocks, and the layers from the second on one
cross-attention. A `config.json` of the model's folder is read for its sizes (`perceiver_config`).
"""

from __future__ import annotations

import json
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

OPTIONS: dict[str, int] = {
    "latent_seq": 512,
    "latent_dim": 1280,
    "context_dim": 2560,
    "mhsa_heads": 8,
    "perceiver_depth": 8,
    "transformer_depth": 6,
    "share_xattn_start_layer": 1,
    "share_tf_start_layer": 0,
    "xattn_heads": 1,
    "mlp_mult": 1,
}
PREFIX = "image_resampler."
_LAYER = re.compile(r"^perceiver\.layers\.(\d+)\.(xattn|tf)\.")


class _Cross(nn.Module):
    def __init__(self, width: int, context: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.x_norm = nn.LayerNorm(width)
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_kv = nn.Linear(context, 2 * width, bias=False)
        self.to_out = nn.Linear(width, width, bias=False)

    def keys(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of features (N, context), each (heads, N, width / heads)."""
        both = self.to_kv(features).unflatten(-1, (2, self.heads, -1)).permute(1, 2, 0, 3)
        return both[0], both[1]

    def forward(self, x: Tensor, keys: tuple[Tensor, Tensor]) -> Tensor:
        queries = self.to_q(self.x_norm(x)).unflatten(-1, (self.heads, -1)).transpose(0, 1)
        seen = functional.scaled_dot_product_attention(queries[None], keys[0][None], keys[1][None])[0]
        out: Tensor = self.to_out(seen.transpose(0, 1).flatten(1))
        return out


class _Feed(nn.Module):
    def __init__(self, width: int, factor: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        wide = nn.Linear(width, 2 * factor * width)
        self.net = nn.ModuleDict({"0": wide, "2": nn.Linear(factor * width, width)})

    def forward(self, x: Tensor) -> Tensor:
        values, gates = self.net["0"](self.norm(x)).chunk(2, dim=-1)
        out: Tensor = self.net["2"](values * functional.gelu(gates))
        return out


class _Self(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mha = nn.MultiheadAttention(width, heads, bias=False, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm(x)[None]
        seen: Tensor = self.mha(normed, normed, normed, need_weights=False)[0][0]
        return seen


class _Perceiver(nn.Module):
    def __init__(self, o: Mapping[str, int]) -> None:
        super().__init__()
        width, factor = o["latent_dim"], o["mlp_mult"]
        self.depth = o["perceiver_depth"]
        self.last = {"xattn": o["share_xattn_start_layer"], "tf": o["share_tf_start_layer"]}
        self.latents = nn.Parameter(torch.zeros(1 + o["latent_seq"], width))
        self.layers = nn.ModuleDict()
        for i in range(min(self.depth, 1 + max(self.last.values()))):
            layer = nn.ModuleDict()
            if i <= self.last["xattn"]:
                cross = _Cross(width, o["context_dim"], o["xattn_heads"])
                layer["xattn"] = nn.ModuleDict({"xattn": cross, "ff": _Feed(width, factor)})
            if i <= self.last["tf"]:
                layer["tf"] = nn.ModuleList(
                    nn.ModuleDict({"mhsa": _Self(width, o["mhsa_heads"]), "ff": _Feed(width, factor)})
                    for _ in range(o["transformer_depth"])
                )
            self.layers[str(i)] = layer

    def forward(self, features: Tensor) -> Tensor:
        x: Tensor = self.latents
        keys: tuple[Tensor, Tensor] | None = None
        for i in range(self.depth):
            cross: Any = self._part(i, "xattn")
            if keys is None or i <= self.last["xattn"]:
                keys = cross["xattn"].keys(features)
            x = x + cross["xattn"](x, keys)
            x = x + cross["ff"](x)
            for block in self._part(i, "tf").children():
                both: Any = block
                x = x + both["mhsa"](x)
                x = x + both["ff"](x)
        return x

    def _part(self, layer: int, part: str) -> nn.Module:
        holder: Any = self.layers[str(min(layer, self.last[part]))]
        found: nn.Module = holder[part]
        return found


class Prism(nn.Module):
    """Features (N, 2560) to slide features (1280,): the first latent, normalised."""

    def __init__(self, options: Mapping[str, int]) -> None:
        super().__init__()
        o = OPTIONS | dict(options)
        self.cls_norm = nn.LayerNorm(o["latent_dim"])
        self.img_norm = nn.LayerNorm(o["latent_dim"])
        self.perceiver = _Perceiver(o)

    def forward(self, features: Tensor, coords: Tensor, patch_size_lv0: float) -> Tensor:
        pooled: Tensor = self.cls_norm(self.perceiver(features)[0])
        return pooled


def build(options: Mapping[str, Any]) -> Prism:
    """PRISM's slide encoder without weights; `options` overrides `OPTIONS`, such as to shrink it."""
    return Prism(options)


def load(path: Path | str, options: Mapping[str, Any] | None = None, *, device: str = "cpu") -> SlideModule:
    """PRISM's slide encoder with the weights of a file (`model.safetensors`).

    Raises
    ------
    ModelError
        The file is missing, damaged, or of another architecture.
    """
    path = Path(path)
    o = OPTIONS | _configured(path.parent / "config.json") | dict(options or {})
    state = {name[len(PREFIX) :]: value for name, value in read_state(path).items() if name.startswith(PREFIX)}
    if not state:
        raise ModelError(f"{path}: has no names {PREFIX}*; expected model.safetensors of paige-ai/Prism.")
    module = with_weights(build, o, _once(state, o, path), path)
    assert isinstance(module, Prism)
    mark = digest(f"prism {sorted(o.items())}", module.state_dict())
    info = SlideEncoderInfo(
        "prism", o["latent_dim"], o["context_dim"], mark, "virchow", source_of(path), "CC-BY-NC-ND-4.0"
    )
    return SlideModule(module, module, info, device=device)


def _configured(path: Path) -> dict[str, int]:
    """Sizes of `perceiver_config` in a model's config.json; none without such a file."""
    if not path.is_file():
        return {}
    try:
        held = json.loads(path.read_text(encoding="utf-8")).get("perceiver_config", {})
        if held.get("mlp_activation", "geglu") != "geglu":
            raise ValueError(f"mlp_activation {held['mlp_activation']!r}; this loader has geglu")
        return {name: int(held[name]) for name in OPTIONS if name in held}
    except (ValueError, TypeError, AttributeError) as error:
        raise ModelError(f"{path}: is no config.json of PRISM ({error}).") from error


def _once(state: State, o: Mapping[str, int], path: Path) -> State:
    """Weights that several layers share, under the name of the first of them.

    Raises
    ------
    ModelError
        Layers that should share weights have different ones.
    """
    last = {"xattn": o["share_xattn_start_layer"], "tf": o["share_tf_start_layer"]}
    out: State = {}
    for name, value in state.items():
        new = name
        if found := _LAYER.match(name):
            layer = min(int(found[1]), last[found[2]])
            new = f"perceiver.layers.{layer}.{found[2]}.{name[found.end() :]}"
        if new in out and not torch.equal(out[new], value):
            raise ModelError(
                f"{path}: {name} differs from {new}; expected layers that share weights from {layer} on. Keep the "
                "published config.json in the same folder."
            )
        out[new] = value
    return out
