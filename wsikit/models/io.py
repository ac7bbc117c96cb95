"""Models as folders: config.json, model.safetensors, tokenizer.json, README.md and, with an OOD detector,
novelty.safetensors. Nothing is unpickled or downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import save_model as save_weights

from wsikit.models.afloc import AFLoc
from wsikit.models.config import (
    CARD_FILE,
    CONFIG_FILE,
    DEFAULT_MODEL,
    OOD_FILE,
    WEIGHTS_FILE,
    find_model,
    fingerprint,
    packaged_models,
    read_config,
)
from wsikit.models.mmlnb import MMLNB
from wsikit.models.model_folder import building, write_description, write_folder
from wsikit.models.ood import OodDetector
from wsikit.models.tokenizer import CaptionTokenizer
from wsikit.tensor_files import load_module

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

    def write(staging: Path) -> None:
        write_description(staging, model.config, card, metrics)
        model.tokenizer.save(staging)
        if model.ood_detector is not None:
            model.ood_detector.save(staging / OOD_FILE)
        save_weights(model, str(staging / WEIGHTS_FILE))

    return write_folder(folder, write)


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
    with building(folder / CONFIG_FILE, folder / WEIGHTS_FILE):
        model = MMLNB(config, tokenizer, plain=True)
    load_module(model, folder / WEIGHTS_FILE)
    if (folder / OOD_FILE).is_file():
        model.ood_detector = OodDetector.load(folder / OOD_FILE, width=model.image.width)
    model.folder = folder
    model.fingerprint = fingerprint(folder)
    card = folder / CARD_FILE
    model.card = card.read_text(encoding="utf-8") if card.is_file() else ""
    return model.eval()
