"""From a model's name or folder to its description, and to the loaded model; for built-in architectures and plug-ins.

A folder's `config.json` names its `architecture`: "mmlnb", "head" (a classifier on stored features), "concepts" (one
that predicts through concepts), "mil" (trained on labels of slides), or a plug-in of the entry-point group
`wsikit.models`.
`zeroshot:FILE` is a configuration of classes by words (`wsikit.models.zeroshot`).
No torch is imported before a model is loaded.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Literal, cast

from wsikit.errors import ModelError
from wsikit.models.config import CONFIG_FILE, DEFAULT_MODEL, packaged_folder, packaged_models
from wsikit.models.protocol import ModelInfo, ModelKind, PatchModel
from wsikit.plugins import load_plugin, plugin_names

Device = Literal["auto", "cpu", "cuda"]
ModelSpec = str | os.PathLike[str]

MMLNB, HEAD, CONCEPTS, MIL = "mmlnb", "head", "concepts", "mil"
_ZEROSHOT = "zeroshot:"


def describe_model(spec: ModelSpec = DEFAULT_MODEL) -> ModelInfo:
    """Describe a model without loading it: name, classes, scale, inputs and fingerprint.

    Parameters
    ----------
    spec
        Name of a packaged model, folder of a model, name of an installed plug-in of the group `wsikit.models`, or
        `zeroshot:FILE`, a configuration of classes by words.

    Raises
    ------
    ModelError
        There is no such model, or its folder is incomplete or damaged.
    PluginError
        Its architecture is a plug-in that is not installed or cannot be imported.

    Examples
    --------
    >>> info = describe_model("phantom-mmlnb")
    >>> info.classes, info.patch_px, info.mpp, info.inputs
    (('UD', 'PD', 'D', 'other'), 224, 0.5, ('image', 'text'))
    """
    kind, folder = _find(spec)
    return kind.describe(folder)


def load_patch_model(spec: ModelSpec = DEFAULT_MODEL, *, device: Device = "auto") -> PatchModel:
    """Load a model, ready to predict.

    Parameters
    ----------
    spec
        As for `describe_model`.
    device
        "auto" uses a GPU if there is one.

    Raises
    ------
    ModelError, PluginError
        As for `describe_model`; also if a required library is not installed, or "cuda" is given and there is no GPU.

    Examples
    --------
    >>> model = load_patch_model("phantom-mmlnb", device="cpu")
    >>> import numpy as np
    >>> columns = model.predict(images=np.full((1, 224, 224, 3), 200, np.uint8), captions=["no nuclei"])
    >>> columns["probability"].shape
    (1, 4)
    """
    kind, folder = _find(spec)
    try:
        return kind.load(folder, device=device)
    except ModuleNotFoundError as error:
        raise ModelError(
            f"model {os.fspath(spec)!r}: the package {error.name!r} is not installed here. Install it "
            f"(pip install wsikit brings all that models need)."
        ) from error


def _find(spec: ModelSpec) -> tuple[ModelKind, Path | None]:
    """The architecture of a model, and its folder."""
    name = os.fspath(spec)
    if name.startswith(_ZEROSHOT):
        from wsikit.models.zeroshot import ZEROSHOT_KIND

        return ZEROSHOT_KIND, Path(name.removeprefix(_ZEROSHOT))
    if name in packaged_models():
        folder: Path | None = packaged_folder(name)
    elif Path(name).is_dir():
        folder = Path(name)
    elif name in plugin_names("models"):
        return cast(ModelKind, load_plugin("models", name)), None
    else:
        if Path(name).suffix in (".yaml", ".yml") and Path(name).is_file():
            raise ModelError(f"model {name!r}: a file. Classes by words: zeroshot:{name} (docs/localize.md)")
        known = ", ".join((*packaged_models(), *plugin_names("models"))) or "none"
        raise ModelError(
            f"model {name!r} not found: neither a folder nor one of the packaged or installed models ({known}). Give "
            "a model's folder, one of these names, or zeroshot:FILE; nothing is ever downloaded."
        )
    architecture = _architecture(cast(Path, folder))
    if architecture == MMLNB:
        from wsikit.models.mmlnb_kind import MMLNB_KIND

        return MMLNB_KIND, folder
    if architecture == HEAD:
        from wsikit.models.head_kind import HEAD_KIND

        return HEAD_KIND, folder
    if architecture == CONCEPTS:
        from wsikit.models.concept_kind import CONCEPT_KIND

        return CONCEPT_KIND, folder
    if architecture == MIL:
        from wsikit.models.mil_kind import MIL_KIND

        return MIL_KIND, folder
    return cast(ModelKind, load_plugin("models", architecture)), folder


def _architecture(folder: Path) -> str:
    path = folder / CONFIG_FILE
    try:
        record: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return MMLNB  # its check reports the missing files
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: not JSON ({error}); copy the model's folder again.") from error
    return str(record.get("architecture", MMLNB)) if isinstance(record, dict) else MMLNB
