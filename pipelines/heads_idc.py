"""Heads on features that need no download, on the IDC patches: what a foundation model's features have to beat.

python pipelines/heads_idc.py --images idc.zip -o OUT [--random]

Encoders: the image branch of the packaged model (trained on synthetic tissue at 0.5 µm/px), and the mean colours of a
4 × 4 grid of each patch; with --random, also a ResNet-18 with random weights, which takes minutes. Each with the three
heads of `wsikit train`, on the split of pipelines/configs/train_head.yaml; OUT/heads.md is the table.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.encoders.protocol import EncoderInfo, PatchEncoder
from wsikit.training.config import TrainConfig
from wsikit.training.heads.config import read_training_config
from wsikit.training.heads.run import FEATURES_FILE, HeadCallbacks, run_head_training

logger = logging.getLogger("heads_idc")

CONFIG = Path(__file__).parent / "configs" / "train_head.yaml"
RANDOM = "random:resnet18"
PACKAGED = "phantom-mmlnb"
HEADS = ("linear", "mlp", "knn")
GRID = 4


class ImageBranch:
    """Features of the image branch of a packaged model."""

    def __init__(self, name: str, patch_px: int) -> None:
        from wsikit.models.io import load_model

        self._model = load_model(name)
        width, fingerprint = self._model.image.width, str(self._model.fingerprint)
        self.info = EncoderInfo(name, width, patch_px, self._model.config.mpp, fingerprint, licence="Apache-2.0")

    def encode(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        from wsikit.training.forward import image_features

        return image_features(self._model, images)


class ColourGrid:
    """Mean colours of a grid of each patch."""

    info = EncoderInfo("colour-grid", GRID * GRID * 3, 50, None, "mean of 4 x 4, 0 to 1")

    def encode(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        side = images.shape[1] // GRID
        cells = images[:, : GRID * side, : GRID * side].reshape(len(images), GRID, side, GRID, side, 3)
        return (cells.mean(axis=(2, 4)) / 255).reshape(len(images), -1).astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", required=True, help="idc.zip")
    parser.add_argument("-o", "--out", required=True, type=Path, help="new folder")
    parser.add_argument("--random", action="store_true", help=f"also {RANDOM}")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    def packaged(name: str) -> PatchEncoder:
        return ImageBranch(name, 50)

    encoders: dict[str, Callable[[str], PatchEncoder] | None] = {
        "colour-grid": lambda name: ColourGrid(),
        PACKAGED: packaged,
    }
    if given.random:
        encoders[RANDOM] = None  # as `wsikit train` loads it
    lines = ["| encoder | head | AUC | balanced accuracy | ECE | fit, s |", "|---|---|---|---|---|---|"]
    floors: dict[str, Any] = {}
    for encoder, load in encoders.items():
        made: Path | None = None
        for head in HEADS:
            config = read_training_config(CONFIG, data=given.images)
            assert not isinstance(config, TrainConfig)
            image = {"features": encoder, "file": None if made is None else str(made)}
            config = type(config).model_validate(config.model_dump(exclude_unset=True) | {"image": image, "head": head})
            out = given.out / f"{encoder.replace(':', '-')}-{head}"
            metrics = run_head_training(config, out, device="cpu", load=load, callbacks=HeadCallbacks(logger.info))
            made = made or out / FEATURES_FILE
            patch = metrics["test"]["head"]["patch"]
            lines.append(f"| {encoder} | {head} | {_row(patch)} | {metrics['seconds']:.1f} |")
            floors = {name: record["patch"] for name, record in metrics["test"].items() if name.startswith("floor")}
    lines += [f"| – | {name} | {_row(record)} | – |" for name, record in floors.items()]
    (given.out / "heads.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    logger.info("\n".join(lines))


def _row(record: dict[str, Any]) -> str:
    return " | ".join(_figure(record[name]) for name in ("auc", "balanced_accuracy", "ece"))


def _figure(figure: dict[str, Any]) -> str:
    return f"{figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]"


if __name__ == "__main__":
    main()
