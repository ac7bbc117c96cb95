"""What the configuration files of a model's folder say, without the libraries that wrote them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wsikit.encoders.transform import Transform
from wsikit.errors import ModelError

CLIP_TYPES = ("clip", "siglip")
"""Model types of transformers with an image and a text tower that are supported."""
PREFIX_TOKENS = {
    "beit": 1, "clip_vision_model": 1, "data2vec-vision": 1, "deit": 2, "dinov2": 1, "dinov2_with_registers": 1,
    "dinov3_vit": 1, "ijepa": 0, "siglip_vision_model": 0, "vit": 1, "vit_msn": 1,
}  # fmt: skip
"""Model types of transformers whose output is a sequence of tokens: how many precede the patches', registers aside."""
POOLED = ("bit", "convnext", "convnextv2", "regnet", "resnet", "swin", "swinv2")
"""Model types of transformers whose pooled output is the mean over the image."""
_BILINEAR, _BICUBIC = 2, 3  # Pillow's numbers


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a file.

    Raises
    ------
    ModelError
        The file is missing or no JSON object.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"{path.parent}: has no {path.name}; give the complete folder of a model.") from error
    except ValueError as error:
        raise ModelError(f"{path}: damaged ({error}); copy it again from its source.") from error
    if not isinstance(record, dict):
        raise ModelError(f"{path}: damaged (no JSON object); copy it again from its source.")
    return record


def width_of(config: Mapping[str, Any], path: Path) -> int:
    """Width of the tokens of a transformers vision model."""
    sizes = config.get("hidden_sizes") or config.get("embed_dim_out")
    width = config.get("hidden_size") or (sizes[-1] if isinstance(sizes, list) else None)
    if width is None and "embed_dim" in config and "depths" in config:  # Swin doubles its width at each stage
        width = config["embed_dim"] * 2 ** (len(config["depths"]) - 1)
    if not isinstance(width, int):
        raise ModelError(f"{path}: no hidden_size in it; expected the configuration of a vision model.")
    return width


def shared_width_of(config: Mapping[str, Any]) -> int:
    """Width of the space that images and texts share, of CLIP and SigLIP."""
    if config.get("model_type") == "siglip":
        return int((config.get("vision_config") or {}).get("hidden_size", 768))
    return int(config.get("projection_dim", 512))


def transform_in(folder: Path) -> Transform:
    """The transform of a folder's preprocessor_config.json.

    Raises
    ------
    ModelError
        There is none, or it does something that is not supported.
    """
    path = folder / "preprocessor_config.json"
    record = read_json(path)
    resize, crop = _side(record.get("size")), _side(record.get("crop_size"))
    if not record.get("do_center_crop", crop is not None):
        crop = None
    if not record.get("do_resize", resize is not None):
        resize = None
    wanted = crop or resize
    if wanted is None:
        raise ModelError(f"{path}: neither size nor crop_size of one side is in it; expected the model's preprocessor.")
    resample = record.get("resample", _BILINEAR)
    if resample not in (_BILINEAR, _BICUBIC):
        raise ModelError(f"{path}: resample {resample} is not supported; expected 2 (bilinear) or 3 (bicubic).")
    if abs(record.get("rescale_factor", 1 / 255) * 255 - 1) > 1e-6 or not record.get("do_rescale", True):
        raise ModelError(f"{path}: pixels are not scaled by 1/255; this is not supported.")
    normal = record.get("do_normalize", True)
    return Transform(
        crop=wanted,
        resize=max(resize or wanted, wanted),
        interpolation="bilinear" if resample == _BILINEAR else "bicubic",
        mean=three(record.get("image_mean", (0.5, 0.5, 0.5))) if normal else (0.0, 0.0, 0.0),
        std=three(record.get("image_std", (0.5, 0.5, 0.5))) if normal else (1.0, 1.0, 1.0),
    )


def timm_transform(config: Mapping[str, Any]) -> Transform:
    """The transform of a timm configuration (`pretrained_cfg`), as `timm.data.create_transform` makes it."""
    side = int(tuple(config.get("input_size") or (3, 224, 224))[-1])
    share = 1.0 if config.get("crop_mode") == "squash" else float(config.get("crop_pct") or 0.875)
    interpolation = str(config.get("interpolation") or "bicubic")
    return Transform(
        crop=side,
        resize=max(side, int(side / share)),
        interpolation="bilinear" if interpolation == "bilinear" else "bicubic",
        mean=three(config.get("mean") or (0.485, 0.456, 0.406)),
        std=three(config.get("std") or (0.229, 0.224, 0.225)),
    )


def three(values: Any) -> tuple[float, float, float]:
    """Three numbers, one per channel."""
    first, second, third = (float(value) for value in values)
    return first, second, third


def _side(size: Any) -> int | None:
    """The side of a processor's size: a number, {"shortest_edge"} or equal {"height", "width"}."""
    if isinstance(size, int):
        return size
    if isinstance(size, Mapping):
        sides = {int(size[key]) for key in ("shortest_edge", "height", "width") if size.get(key) is not None}
        return sides.pop() if len(sides) == 1 else None
    return None
