"""Models as folders: config.json, model.safetensors, tokenizer.json, README.md and, with an OOD detector,
novelty.safetensors. Nothing is unpickled or downloaded."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_model as load_weights
from safetensors.torch import save_model as save_weights

from wsikit.errors import ModelError
from wsikit.models.afloc import AFLoc
from wsikit.models.config import (
    CARD_FILE,
    CONFIG_FILE,
    DEFAULT_MODEL,
    METRICS_FILE,
    OOD_FILE,
    WEIGHTS_FILE,
    find_model,
    fingerprint,
    packaged_models,
    read_config,
)
from wsikit.models.mmlnb import MMLNB
from wsikit.models.ood import OodDetector
from wsikit.models.tokenizer import CaptionTokenizer
from wsikit.store.atomic import write_json

__all__ = ["find_model", "fingerprint", "load_model", "packaged_models", "read_config", "save_model"]


def save_model(model: MMLNB | AFLoc, folder: str | Path, *, card: str, metrics: dict[str, Any] | None = None) -> Path:
    """Write a model's folder atomically.

    Parameters
    ----------
    model : MMLNB or AFLoc
    folder : path
        Must not exist yet, or be empty.
    card : str
        The model card, Markdown: training data, results, limits of use.
    metrics : dict, optional
        The figures of the card, ready for JSON; written to metrics.json.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    ModelError
        If the folder is not empty: nothing is overwritten.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ModelError(f"{folder}: is not empty; give a new folder, nothing is overwritten.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        staging.chmod(0o755)  # mkdtemp makes it private; models are shared
        (staging / CONFIG_FILE).write_text(model.config.model_dump_json(indent=2) + "\n", encoding="utf-8")
        (staging / CARD_FILE).write_text(card, encoding="utf-8")
        if metrics is not None:
            write_json(staging / METRICS_FILE, metrics)
        model.tokenizer.save(staging)
        if model.ood_detector is not None:
            model.ood_detector.save(staging / OOD_FILE)
        save_weights(model, str(staging / WEIGHTS_FILE))
        for weights in staging.glob("*.safetensors"):
            weights.chmod(0o644)  # safetensors also writes for the owner only
        os.replace(staging, folder)
    except BaseException:
        for path in staging.iterdir():
            path.unlink()
        staging.rmdir()
        raise
    return folder


def load_model(name_or_dir: str | Path = DEFAULT_MODEL) -> MMLNB:
    """Load an MMLNB: a packaged model by its name, or any model by its folder; on the CPU, in evaluation mode.

    Raises
    ------
    ModelError
        If there is no such model, or its folder is incomplete, damaged or of another architecture.
    """
    folder = find_model(name_or_dir)
    config = read_config(folder)
    tokenizer = CaptionTokenizer.load(folder, max_tokens=config.text_max_tokens)
    model = MMLNB(config, tokenizer, plain=True)
    weights = folder / WEIGHTS_FILE
    try:
        load_weights(model, str(weights), strict=True)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{weights}: damaged or not safetensors ({error}); copy the model's folder again.") from error
    except RuntimeError as error:
        raise ModelError(
            f"{weights}: these weights do not fit config.json ({_first_reason(error)}); copy the model's folder again."
        ) from error
    if (folder / OOD_FILE).is_file():
        model.ood_detector = OodDetector.load(folder / OOD_FILE, width=model.image.width)
    model.folder = folder
    model.fingerprint = fingerprint(folder)
    card = folder / CARD_FILE
    model.card = card.read_text(encoding="utf-8") if card.is_file() else ""
    return model.eval()


def _first_reason(error: RuntimeError) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[1] if len(lines) > 1 else lines[0]
