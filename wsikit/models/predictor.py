"""MMLNB as a `PatchModel`: batches of pixels and captions in, columns out. No slides, no stores."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from wsikit.errors import ModelError
from wsikit.models.mmlnb import MMLNB
from wsikit.models.mmlnb_info import info_of
from wsikit.models.protocol import OOD_SCORE, PROBABILITY, ModelInfo
from wsikit.models.threads import map_on_threads

logger = logging.getLogger(__name__)

Columns = dict[str, npt.NDArray[np.float32]]

IN_CACHE = 8
"""Patches that go through the image branch together on a CPU."""


class Predictor:
    """Runs an MMLNB over batches of patches: a `wsikit.models.protocol.PatchModel`.

    Parameters
    ----------
    model : MMLNB
        From `wsikit.models.io.load_model`. It is moved to `device`.
    device : "auto", "cpu" or "cuda"
        "auto" uses a GPU if there is one.
    batch : int
        Batch size of the forward passes; longer inputs are split, on the CPU among threads. It changes memory and
        speed, not the result.

    Raises
    ------
    ModelError
        If "cuda" is given and there is no GPU.
    """

    def __init__(self, model: MMLNB, *, device: Literal["auto", "cpu", "cuda"] = "auto", batch: int = 64) -> None:
        cuda = torch.cuda.is_available()
        if device == "cuda" and not cuda:
            raise ModelError("device 'cuda': torch finds no GPU here; use 'cpu' or 'auto'.")
        self.device = torch.device("cuda" if cuda and device != "cpu" else "cpu")
        self.model = model.to(self.device).eval()
        self.batch = batch
        self._truncation_warned = False

    @property
    def info(self) -> ModelInfo:
        """Description of the model. The fingerprint is empty for a model that was never saved."""
        model = self.model
        return info_of(model.config, model.fingerprint or "", has_ood=model.ood_detector is not None)

    def predict(self, images: npt.NDArray[np.uint8], captions: Sequence[str | None]) -> Columns:
        """Classify patches. A row depends only on the patch and caption of this row, to float tolerance.

        Parameters
        ----------
        images : uint8 (B, H, W, 3)
            RGB at the model's mpp, H = W = the model's patch_px.
        captions : sequence of str or None, length B
            None or blank: the patch is classified from the image alone.

        Returns
        -------
        dict of float32 arrays
            `probability` (B, C) from patch and caption; `gate` (B,) in [0, 1], the weight of the caption, 0 without
            caption; `probability_image` and `probability_text` (B, C) of the unimodal auxiliary heads, the latter
            NaN without caption; and, if the model has an OOD detector, `ood_score` (B,): above 1,
            farther from the training patches than 99 % of held-out patches (Mahalanobis distance, arXiv 1807.03888).

        Raises
        ------
        ModelError
            If shapes, dtype or lengths do not match.
        """
        self._check_batch(images, len(captions))
        return self.run(images, captions)

    def run(self, images: npt.NDArray[np.generic], captions: Sequence[str | None]) -> Columns:
        """As `predict`, unchecked; of a model on stored features, `images` are these, float32 (B, D)."""
        batches = [slice(start, start + self.batch) for start in range(0, len(images), self.batch)]

        def forward(rows: slice) -> Columns:
            return self._forward(images[rows], captions[rows])

        on_cpu = self.device.type == "cpu"
        parts = map_on_threads(forward, batches) if on_cpu else [forward(rows) for rows in batches]
        if not parts:
            width = len(self.model.config.classes)
            return {
                column.name: np.empty((0, width) if column.per_class else 0, dtype=np.float32)
                for column in self.info.columns
            }
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    @torch.inference_mode()
    def image_features(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Features of the image branch, float32 (B, D), for patches as `predict` takes them."""
        features: npt.NDArray[np.float32] = self._features(images).float().cpu().numpy()
        return features

    def _features(self, images: npt.NDArray[np.generic]) -> torch.Tensor:
        """Features of the image branch; on the CPU, of some patches at a time, so that layers stay in the cache."""
        patches = torch.from_numpy(np.ascontiguousarray(images)).to(self.device)
        if self.device.type != "cpu" or len(patches) <= IN_CACHE:
            return self.model.image(patches)  # type: ignore[no-any-return]
        # parts of equal size: a part of one patch would go through other kernels
        return torch.cat([self.model.image(part) for part in patches.tensor_split(-(-len(patches) // IN_CACHE))])

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
                f"model {config.name}: {len(images)} patches and {n_captions} captions; give one (or None) per patch."
            )

    @torch.inference_mode()
    def _forward(self, images: npt.NDArray[np.generic], captions: Sequence[str | None]) -> Columns:
        tokens = self.model.read(captions)
        if tokens.truncated and not self._truncation_warned:
            self._truncation_warned = True
            logger.warning("captions longer than %d tokens are truncated", self.model.config.text_max_tokens)
        features = self._features(images)
        read = (tokens.ids, tokens.mask, tokens.present)
        out = self.model.fuse(features, *(torch.from_numpy(array).to(self.device) for array in read))
        logits = (out.logits, out.logits_img, out.logits_txt)
        fused, image, text = (x.float().softmax(dim=1).cpu().numpy() for x in logits)
        text[~tokens.present] = np.nan
        columns = {
            PROBABILITY: fused,
            "probability_image": image,
            "probability_text": text,
            "gate": out.gate.float().cpu().numpy(),
        }
        if self.model.ood_detector is not None:
            columns[OOD_SCORE] = self.model.ood_detector.of(features.float().cpu().numpy())
        return columns
