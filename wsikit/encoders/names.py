"""From the name of an encoder to its recipe: which architecture, which weights, where. No torch where possible."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

from wsikit.encoders import configs, weights
from wsikit.encoders.presets import Preset, close_names, preset_of_hub, presets, read_card
from wsikit.encoders.recipe import POOLINGS, RANDOM_NOTICE, Pooling, Recipe, column_name, towers
from wsikit.errors import ModelError
from wsikit.plugins import plugin_names

RANDOM_DIGEST = "random 1"
TIMM_FILES = ("model.safetensors", "pytorch_model.bin")
OPEN_CLIP_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
HUB_FILES = (*TIMM_FILES, *OPEN_CLIP_FILES)
HOW = (
    "expected the name of a preset (`wsikit encoders` lists them), a folder or file, hf-hub:ID, timm:NAME, "
    "random:NAME, or the name of a plug-in"
)


def recipe_of(name: str | os.PathLike[str], *, download: bool = False) -> Recipe:
    """The recipe of an encoder.

    Raises
    ------
    ModelError
        There is no such encoder, its weights are not here, or its folder is incomplete.
    PluginError
        It is a plug-in that cannot be imported.
    """
    spec, _, query = os.fspath(name).partition("?")
    recipe = _found(spec, _pooling(query, spec), download)
    return recipe if not query else dataclasses.replace(recipe, name=f"{recipe.name}-{column_name(recipe.pooling)}")


def is_plugin(name: str) -> bool:
    """Whether a name means a plug-in: it is neither a preset nor on this disk."""
    return name not in presets() and not Path(name).exists() and name in plugin_names("encoders")


def random_recipe(name: str, pooling: Pooling | None = None) -> Recipe:
    """A recipe for random weights, of a preset's architecture or a name of timm."""
    common: dict[str, Any] = {
        "digest": RANDOM_DIGEST, "source": f"random:{name}", "notice": RANDOM_NOTICE, "licence": "",
        "name": column_name(f"random-{name}"),
    }  # fmt: skip
    if name in presets():
        preset = presets()[name]
        if preset.kind == "open-clip":
            raise ModelError(f"random:{name}: not for models of open_clip.")
        return dataclasses.replace(_of_preset(preset, pooling), **common)
    from wsikit.encoders.timm_cards import measured

    width, transform = measured(name, pooling or "model")
    return Recipe(
        kind="timm",
        architecture=name,
        width=width,
        transform=dataclasses.replace(transform, resize=None),
        patch_px=transform.crop,
        pooling=pooling or "model",
        **common,
    )


def _found(spec: str, pooling: Pooling | None, download: bool) -> Recipe:
    prefix, _, rest = spec.partition(":")
    if prefix == "random" and rest:
        return random_recipe(rest, pooling)
    if prefix == "timm" and rest:
        return _of_timm(rest, pooling, download)
    if prefix in ("hf-hub", "hf_hub") and rest:
        return _of_hub(rest, pooling, download)
    preset_name, _, place = spec.partition("=")
    if place and preset_name in presets():
        return _preset_from(presets()[preset_name], Path(place).expanduser(), pooling)
    if spec in presets():
        return _preset_from(presets()[spec], _preset_folder(presets()[spec], download), pooling)
    path = Path(spec).expanduser()
    if spec and path.is_dir():  # Path("") is the working folder
        return folder_recipe(path, pooling)
    if path.is_file():
        return _of_file(path)
    raise ModelError(f"encoder {spec!r} not found: {HOW}.{close_names(spec)}")


def _pooling(query: str, spec: str) -> Pooling | None:
    if not query:
        return None
    key, _, value = query.partition("=")
    for pooling in POOLINGS:
        if key == "pooling" and value == pooling:
            return pooling
    raise ModelError(f"encoder {spec}?{query}: expected ?pooling= and one of {', '.join(POOLINGS)}.")


def preset_folder(preset: Preset) -> Path | None:
    """Folder of a preset's weights in the local cache; None if they are not there."""
    for hub_id in (preset.hub, *preset.cached_as):
        folder = weights.cached_folder(hub_id)
        if folder is not None and weights.weights_in(folder, preset.files):
            return folder
    return None


def _preset_folder(preset: Preset, download: bool) -> Path:
    folder = preset_folder(preset)
    if folder is not None:
        return folder
    if not download:
        raise ModelError(f"encoder {preset.name!r}: {weights.how_to_get(preset.hub, gated=preset.gated)}")
    return weights.fetch(preset.hub, preset.files, gated=preset.gated)


def _of_preset(preset: Preset, pooling: Pooling | None) -> Recipe:
    chosen = pooling or preset.pooling
    if chosen != preset.pooling and preset.kind not in ("timm", "transformers"):
        raise ModelError(f"encoder {preset.name!r}: has one way of pooling; leave ?pooling= out.")
    if preset.kind == "tower" and preset.architecture not in towers():
        raise ModelError(f"encoder {preset.name!r}: this version of wsikit has no loader for it.")
    factor = {"cls+mean": 2}
    width = preset.width // factor.get(preset.pooling, 1) * factor.get(chosen, 1)
    return Recipe(
        name=preset.name,
        kind=preset.kind,
        architecture=preset.architecture,
        width=width,
        transform=preset.transform,
        patch_px=preset.patch_px,
        mpp=preset.mpp,
        options=preset.options,
        pooling=chosen,
        licence=preset.licence,
        shared_width=preset.shared_width,
    )


def _preset_from(preset: Preset, place: Path, pooling: Pooling | None) -> Recipe:
    """A preset with the weights of a folder or file."""
    recipe = _of_preset(preset, pooling)
    if place.is_file():
        files: tuple[Path, ...] = (place,)
        folder = place.parent
        if preset.kind not in ("timm", "tower"):
            raise ModelError(f"{place}: a file; encoder {preset.name!r} needs the folder with its configuration.")
    elif place.is_dir():
        folder, files = place, weights.weights_in(place, (*preset.files, *TIMM_FILES))
        if not files:
            raise ModelError(f"{place}: none of {', '.join(preset.files)} is in it, the weights of {preset.name!r}.")
    else:
        raise ModelError(f"{place}: no such folder or file.")
    architecture, options = recipe.architecture, dict(recipe.options)
    if preset.kind == "timm" and (folder / "config.json").is_file():  # what the authors published has priority
        held = configs.read_json(folder / "config.json")
        if held.get("architecture"):
            architecture = str(held["architecture"])
            options = {**timm_options(held), **options}
    return dataclasses.replace(
        recipe,
        architecture=architecture,
        options=options,
        weights=files,
        folder=folder,
        digest=weights.digest_of(files),
        source=source_of(folder, files),
    )


def _of_timm(architecture: str, pooling: Pooling | None, download: bool) -> Recipe:
    from wsikit.encoders.timm_cards import measured, pretrained

    hub_id, transform = pretrained(architecture)
    folder = weights.cached_folder(hub_id)
    files = weights.weights_in(folder, TIMM_FILES) if folder is not None else ()
    if not files:
        if not download:
            raise ModelError(f"timm:{architecture}: {weights.how_to_get(hub_id, gated=False)}")
        folder = weights.fetch(hub_id, TIMM_FILES)
        files = weights.weights_in(folder, TIMM_FILES)
    assert folder is not None
    width, _ = measured(architecture, pooling or "model")
    return Recipe(
        name=column_name(f"timm-{architecture}"),
        kind="timm",
        architecture=architecture,
        width=width,
        transform=transform,
        patch_px=transform.side,
        pooling=pooling or "model",
        weights=files,
        folder=folder,
        digest=weights.digest_of(files),
        source=source_of(folder, files),
    )


def _of_hub(hub_id: str, pooling: Pooling | None, download: bool) -> Recipe:
    hub_id, _, revision = hub_id.partition("@")
    preset = preset_of_hub(hub_id)
    names = HUB_FILES if preset is None else preset.files
    folder = weights.cached_folder(hub_id, revision or None)
    if folder is None or not weights.weights_in(folder, names):
        gated = preset.gated if preset is not None else None
        if not download:
            raise ModelError(f"hf-hub:{hub_id}: {weights.how_to_get(hub_id, gated=gated)}")
        folder = weights.fetch(hub_id, names, gated=bool(gated), revision=revision or None)
    if preset is not None:
        return _preset_from(preset, folder, pooling)
    return dataclasses.replace(folder_recipe(folder, pooling), name=column_name(hub_id))


def folder_recipe(folder: Path, pooling: Pooling | None) -> Recipe:
    """A folder of timm (config.json with an architecture), transformers (with a model type), or open_clip.

    Raises
    ------
    ModelError
        It is none of these, or incomplete.
    """
    from wsikit.encoders.folders import of_folder

    return of_folder(folder, pooling)


def _of_file(path: Path) -> Recipe:
    suffix = path.suffix.lower()
    if suffix in (".safetensors", ".bin", ".pth", ".ckpt"):
        raise ModelError(
            f"{path}: weights without their architecture. Give them with the name of a preset (NAME={path.name}), or "
            "the folder that holds their config.json."
        )
    if suffix not in (".pt", ".ts", ".torchscript", ".onnx"):
        raise ModelError(f"{path}: expected a TorchScript (.pt) or ONNX (.onnx) file, or the folder of a model.")
    card = read_card(path)
    return Recipe(
        name=column_name(path.stem),
        kind="onnx" if suffix == ".onnx" else "torchscript",
        architecture=str(path),
        width=card.width,
        transform=card.transform,
        patch_px=card.patch_px,
        mpp=card.mpp,
        weights=(path,),
        folder=path.parent,
        digest=weights.digest_of((path,)),
        source=card.source or path.name,
        licence=card.licence,
    )


def timm_options(held: dict[str, Any]) -> dict[str, Any]:
    """Arguments that a timm folder's config.json gives, without those that only concern a classifier."""
    options = {name: value for name, value in (held.get("model_args") or {}).items() if name != "num_classes"}
    if held.get("global_pool") is not None:
        options.setdefault("global_pool", held["global_pool"])
    return options


def name_of(folder: Path) -> str:
    """Name of the column for a folder: its hub id in the hub's cache, else its own name."""
    place = folder.resolve()
    if place.parent.name == "snapshots":
        return column_name(place.parents[1].name.removeprefix("models--").replace("--", "/"))
    return column_name(place.name)


def source_of(folder: Path, files: tuple[Path, ...]) -> str:
    """Hub id and revision of a folder in the hub's cache; else the names of folder and file."""
    if folder.parent.name == "snapshots":
        hub_id = folder.parents[1].name.removeprefix("models--").replace("--", "/")
        return f"{hub_id}@{folder.name}"
    return f"{folder.name}/{files[0].name}"
