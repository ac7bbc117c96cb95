"""Recipes of folders that other libraries wrote: timm, transformers, open_clip. No torch here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from wsikit.encoders import configs, weights
from wsikit.encoders.configs import CLIP_TYPES, POOLED, PREFIX_TOKENS
from wsikit.encoders.names import HUB_FILES, OPEN_CLIP_FILES, TIMM_FILES, name_of, source_of, timm_options
from wsikit.encoders.recipe import Kind, Pooling, Recipe
from wsikit.encoders.transform import Transform
from wsikit.errors import ModelError, WsikitError, reason_of


def of_folder(folder: Path, pooling: Pooling | None) -> Recipe:
    """As `wsikit.encoders.names.folder_recipe`."""
    try:
        return _of_folder(folder, pooling)
    except WsikitError:
        raise
    except Exception as error:  # an entry of its configuration of another type, at any depth
        raise ModelError(
            f"{folder}: its configuration cannot be used ({type(error).__name__}: {reason_of(error)}). Copy the "
            "folder again from its source."
        ) from error


def _of_folder(folder: Path, pooling: Pooling | None) -> Recipe:
    if (folder / "open_clip_config.json").is_file() and weights.weights_in(folder, OPEN_CLIP_FILES):
        return _open_clip(folder, pooling)
    held = configs.read_json(folder / "config.json")
    files = weights.weights_in(folder, TIMM_FILES)
    if not files:
        raise ModelError(f"{folder}: no weights in it; expected one of {', '.join(HUB_FILES)}.")
    if held.get("architecture"):
        return _timm(folder, held, files, pooling)
    if held.get("model_type"):
        return _transformers(folder, held, files, pooling)
    raise ModelError(
        f"{folder / 'config.json'}: neither `architecture` (timm) nor `model_type` (transformers) is in it. Give the "
        "weights with the name of a preset (NAME=FOLDER)."
    )


def _timm(folder: Path, held: dict[str, Any], files: tuple[Path, ...], pooling: Pooling | None) -> Recipe:
    options = timm_options(held)
    chosen = pooling or "model"
    width = held.get("num_features")
    if not isinstance(width, int) or chosen == "pooler":
        raise ModelError(f"{folder / 'config.json'}: num_features is missing in it; expected a configuration of timm.")
    transform = configs.timm_transform(held.get("pretrained_cfg") or held)
    if options.get("global_pool") == "" and pooling in (None, "model"):  # tokens, and no way given how to pool them
        raise ModelError(f"{folder}: gives tokens without pooling; add ?pooling=cls, mean or cls+mean to its name.")
    return Recipe(
        name=name_of(folder),
        kind="timm",
        architecture=str(held["architecture"]),
        width=width * (2 if chosen == "cls+mean" else 1),
        transform=transform,
        patch_px=transform.side,
        options=options,
        pooling=chosen,
        **_common(folder, files, held),
    )


def _transformers(folder: Path, held: dict[str, Any], files: tuple[Path, ...], pooling: Pooling | None) -> Recipe:
    path, model_type = folder / "config.json", str(held["model_type"])
    transform = configs.transform_in(folder)
    kind: Kind
    chosen: Pooling
    shared: int | None
    if model_type in CLIP_TYPES:
        if pooling is not None:
            raise ModelError(f"{folder}: features of {model_type} are its projections; leave ?pooling= out.")
        shared = configs.shared_width_of(held)
        kind, chosen, width = "clip", "model", shared
    else:
        chosen = pooling or _default_pooling(model_type, path)
        if "cls" in chosen and (model_type in POOLED or PREFIX_TOKENS.get(model_type) == 0):
            raise ModelError(f"{path}: {model_type!r} has no class token; use pooling=pooler or mean.")
        if chosen not in ("pooler", "cls") and model_type not in PREFIX_TOKENS:
            raise ModelError(
                f"{path}: which tokens of {model_type!r} are patches is not known here; use pooling=pooler."
            )
        kind, shared = "transformers", None
        width = configs.width_of(held, path) * (2 if chosen == "cls+mean" else 1)
    return Recipe(
        name=name_of(folder),
        kind=kind,
        architecture=model_type,
        width=width,
        transform=transform,
        patch_px=transform.side,
        pooling=chosen,
        shared_width=shared,
        **_common(folder, files, held, digest_too=(path,)),
    )


def _open_clip(folder: Path, pooling: Pooling | None) -> Recipe:
    path = folder / "open_clip_config.json"
    held = configs.read_json(path)
    model, prepare = held.get("model_cfg") or {}, held.get("preprocess_cfg") or {}
    side, width = (model.get("vision_cfg") or {}).get("image_size", 224), model.get("embed_dim")
    if pooling is not None or not isinstance(width, int) or not isinstance(side, int):
        raise ModelError(f"{path}: embed_dim and one image_size are needed in it, and no ?pooling= in the name.")
    if prepare.get("resize_mode", "shortest") not in ("shortest", "squash"):
        raise ModelError(f"{path}: resize_mode {prepare['resize_mode']!r} is not supported.")
    files = weights.weights_in(folder, OPEN_CLIP_FILES)
    transform = Transform(
        crop=side,
        interpolation="bilinear" if prepare.get("interpolation") == "bilinear" else "bicubic",
        mean=configs.three(prepare.get("mean") or (0.48145466, 0.4578275, 0.40821073)),
        std=configs.three(prepare.get("std") or (0.26862954, 0.26130258, 0.27577711)),
    )
    return Recipe(
        name=name_of(folder),
        kind="open-clip",
        architecture=str(model.get("vision_cfg")),
        width=width,
        transform=transform,
        patch_px=side,
        shared_width=width,
        **_common(folder, files, held, digest_too=(path,)),
    )


def _default_pooling(model_type: str, path: Path) -> Pooling:
    if PREFIX_TOKENS.get(model_type):
        return "cls"
    if model_type in PREFIX_TOKENS:
        return "mean"
    if model_type in POOLED:
        return "pooler"
    raise ModelError(
        f"{path}: how features of {model_type!r} are pooled is not known here; add ?pooling=cls or ?pooling=pooler to "
        "the name of the encoder, as its authors use it."
    )


def _common(
    folder: Path, files: tuple[Path, ...], held: dict[str, Any], digest_too: tuple[Path, ...] = ()
) -> dict[str, Any]:
    return {
        "weights": files,
        "folder": folder,
        "digest": weights.digest_of((*files, *digest_too)),
        "source": source_of(folder, files),
        "licence": str((held.get("pretrained_cfg") or {}).get("license") or ""),
    }
