"""Probabilities and gates of patches with their captions. Batches of pixels in, arrays out; no slides, no stores."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from wsikit.errors import ModelError
from wsikit.models.mmlnb import MMLNB

logger = logging.getLogger(__name__)

MPP_TOLERANCE = 0.01
"""Relative. A field wrong by more than this is another scale, not rounding."""


@dataclass(frozen=True)
class PatchPrediction:
    """What the model says of a batch, row by row as the patches came."""

    probs: npt.NDArray[np.float32]
    """(B, C) of patch and caption together."""
    gate: npt.NDArray[np.float32]
    """(B,) in [0, 1]: how much the caption counted; 0 where there is none."""
    probs_image: npt.NDArray[np.float32]
    """(B, C) of the auxiliary head on the image alone."""
    probs_text: npt.NDArray[np.float32]
    """(B, C) of the auxiliary head on the caption alone; NaN where there is none."""
    ood_score: npt.NDArray[np.float32]
    """(B,) how unlike the training patches: above 1, farther off than 99 % of held-out ones; NaN where the model does
    not know them."""


class Predictor:
    """Runs a model over batches of patches.

    Parameters
    ----------
    model : MMLNB
        As `load_model` gives it. It is moved to `device`.
    device : "auto", "cpu" or "cuda"
        auto takes a GPU where there is one.
    batch : int
        Patches per forward pass; longer inputs are cut. It changes memory and speed, not the result.

    Raises
    ------
    ModelError
        If "cuda" is asked for and there is none.
    """

    def __init__(self, model: MMLNB, *, device: Literal["auto", "cpu", "cuda"] = "auto", batch: int = 64) -> None:
        cuda = torch.cuda.is_available()
        if device == "cuda" and not cuda:
            raise ModelError("device 'cuda': torch finds no GPU here; use 'cpu' or 'auto'.")
        self.device = torch.device("cuda" if cuda and device != "cpu" else "cpu")
        self.model = model.to(self.device).eval()
        self.batch = batch
        self._truncation_warned = False

    def check(self, *, patch_px: int, mpp: float) -> None:
        """Refuse patches of a size or scale that the model was not trained on; call it before reading any.

        Raises
        ------
        ModelError
            If either differs from the model's.
        """
        config = self.model.config
        if patch_px != config.patch_px or abs(mpp / config.mpp - 1) > MPP_TOLERANCE:
            raise ModelError(
                f"model {config.name}: made for patches of {config.patch_px} px at {config.mpp} µm/px, these are "
                f"{patch_px} px at {mpp:.4g} µm/px; tile with --patch-size {config.patch_px} --mpp {config.mpp}."
            )

    def predict(self, images: npt.NDArray[np.uint8], captions: Sequence[str | None]) -> PatchPrediction:
        """Classify patches. A row depends on its own patch and caption alone, to float tolerance.

        Parameters
        ----------
        images : uint8 (B, H, W, 3)
            RGB at the model's mpp, H = W = the model's patch_px.
        captions : sequence of str or None, length B
            None or blank: the patch is classified by the image alone.

        Raises
        ------
        ModelError
            If shape, type or length do not fit.
        """
        self._check_batch(images, len(captions))
        parts = [
            self._forward(images[start : start + self.batch], captions[start : start + self.batch])
            for start in range(0, len(images), self.batch)
        ]
        if not parts:
            empty = np.empty((0, len(self.model.config.classes)), dtype=np.float32)
            none = np.empty(0, dtype=np.float32)
            return PatchPrediction(empty, none, empty.copy(), empty.copy(), none.copy())
        return PatchPrediction(*(np.concatenate(arrays) for arrays in zip(*parts)))

    def _check_batch(self, images: npt.NDArray[np.uint8], n_captions: int) -> None:
        config = self.model.config
        wanted = (config.patch_px, config.patch_px, 3)
        if images.ndim != 4 or images.shape[1:] != wanted or images.dtype != np.uint8:
            raise ModelError(
                f"model {config.name}: takes uint8 patches (B, {', '.join(map(str, wanted))}) at {config.mpp} µm/px, "
                f"got {images.dtype} {images.shape}; tile with --patch-size {config.patch_px} --mpp {config.mpp}."
            )
        if n_captions != len(images):
            raise ModelError(
                f"model {config.name}: {len(images)} patches and {n_captions} captions; give one (or None) each."
            )

    @torch.inference_mode()
    def _forward(
        self, images: npt.NDArray[np.uint8], captions: Sequence[str | None]
    ) -> tuple[npt.NDArray[np.float32], ...]:
        tokens = self.model.read(captions)
        if tokens.truncated and not self._truncation_warned:
            self._truncation_warned = True
            logger.warning("captions longer than %d tokens are cut", self.model.config.text_max_tokens)
        features = self.model.image(torch.from_numpy(np.ascontiguousarray(images)).to(self.device))
        read = (tokens.ids, tokens.mask, tokens.present)
        out = self.model.fuse(features, *(torch.from_numpy(array).to(self.device) for array in read))
        logits = (out.logits, out.logits_img, out.logits_txt)
        probs, probs_image, probs_text = (x.float().softmax(dim=1).cpu().numpy() for x in logits)
        probs_text[~tokens.present] = np.nan
        return probs, out.gate.float().cpu().numpy(), probs_image, probs_text, self._novelty(features)

    def _novelty(self, features: torch.Tensor) -> npt.NDArray[np.float32]:
        known = self.model.ood_detector
        if known is None:
            return np.full(len(features), np.nan, dtype=np.float32)
        return known.of(features.float().cpu().numpy())
