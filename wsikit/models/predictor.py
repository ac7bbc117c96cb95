"""MMLNB as a `PatchModel`: batches of pixels and captions in, columns out. No slides, no stores."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from wsikit.errors import ModelError
from wsikit.models.field_terms import with_field
from wsikit.models.image_context import image_context
from wsikit.models.mmlnb import MMLNB
from wsikit.models.mmlnb_info import info_of
from wsikit.models.protocol import OOD_SCORE, PROBABILITY, ModelInfo
from wsikit.models.slide_context import SlideContext, number_columns
from wsikit.models.threads import map_on_threads

logger = logging.getLogger(__name__)

Columns = dict[str, npt.NDArray[np.float32]]

Numbers = npt.NDArray[np.floating] | None

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
        self._slide: SlideContext | None = None
        self._image_context: torch.Tensor | None = None

    @property
    def info(self) -> ModelInfo:
        """Description of the model. The fingerprint is empty for a model that was never saved."""
        model = self.model
        return info_of(model.config, model.fingerprint or "", has_ood=model.ood_detector is not None)

    def predict(
        self,
        images: npt.NDArray[np.uint8],
        captions: Sequence[str | None],
        facts: Numbers = None,
        uncertainty: Numbers = None,
        around: Numbers = None,
    ) -> Columns:
        """Classify patches. A row depends only on the inputs of this row, and on the slide that the predictor was
        fitted to, to float tolerance.

        Parameters
        ----------
        images : uint8 (B, H, W, 3)
            RGB at the model's mpp, H = W = the model's patch_px.
        captions : sequence of str or None, length B
            None or blank: the patch is classified from the image alone, unless it has facts.
        facts, uncertainty : float (B, F), optional
            Of a model that reads numbers: the facts in the order of `info.facts`, NaN where not measured, and the
            half-widths of their intervals, 0 where exact. Default: none is known.
        around : float (B, F), optional
            Of a model that reads the field around a patch: the means of the facts there (`field_means`).

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
        return self.run(images, captions, facts, uncertainty, around)

    def fit(
        self, *, images: npt.NDArray[np.generic] | None = None, facts: Numbers = None, uncertainty: Numbers = None
    ) -> Predictor:
        """The predictor for one slide; see `wsikit.models.protocol.FitsToSlide`.

        Parameters
        ----------
        images
            A sample of the slide's patches, uint8 (n, H, W, 3), for a model with image context. (Of a model on stored
            features these, float32 (n, D).)
        facts, uncertainty
            Of all patches, or a sample, (n, F), for a model that reads numbers relative to the slide.
        """
        bound = copy.copy(self)
        if images is not None and self.model.image_context is not None:
            with torch.inference_mode():
                parts = [
                    self._features(images[first : first + self.batch]) for first in range(0, len(images), self.batch)
                ]
                width = self.model.image.width
                seen = torch.cat(parts) if parts else torch.zeros(0, width, device=self.device)
                bound._image_context = image_context(seen.float())
        if facts is not None:
            bound._slide = SlideContext.of(np.asarray(facts))
        return bound

    def finish(self, columns: Mapping[str, npt.NDArray[np.floating]], centres_um: npt.NDArray[np.floating]) -> Columns:
        """Probabilities with what the patches around add; see `wsikit.models.protocol.Finishes`."""
        field = self.model.config.prmf.field
        if field is None:
            raise ModelError(f"model {self.model.config.name}: its fusion reads no field, so nothing is to finish.")
        image, text, gate = (columns[name] for name in ("probability_image", "probability_text", "gate"))
        return {PROBABILITY: with_field(field, image, text, gate, centres_um)}

    def _numbers(self, n: int, facts: Numbers, uncertainty: Numbers, around: Numbers) -> npt.NDArray[np.float32] | None:
        """The facts of n patches as the model reads them, (n, 2, C); None for a model that reads none."""
        of_model = self.model.config.numbers
        if of_model is None or facts is None:
            return None
        shape = (n, len(of_model.facts))
        for given in (facts, uncertainty, around):
            if given is not None and np.shape(given) != shape:
                raise ModelError(
                    f"model {self.model.config.name}: takes facts and uncertainties {shape}, got {np.shape(given)}; "
                    f"give one column for each of {', '.join(of_model.facts)}."
                )
        statistics = None if self._slide is None else self._slide.statistics
        return number_columns(
            facts,
            uncertainty,
            statistics,
            in_slide=of_model.in_slide,
            around=around,
            in_field=of_model.field_um is not None,
        )

    def run(
        self,
        images: npt.NDArray[np.generic],
        captions: Sequence[str | None],
        facts: Numbers = None,
        uncertainty: Numbers = None,
        around: Numbers = None,
    ) -> Columns:
        """As `predict`, patches unchecked; of a model on stored features, `images` are these, float32 (B, D)."""
        numbers = self._numbers(len(images), facts, uncertainty, around)
        batches = [slice(start, start + self.batch) for start in range(0, len(images), self.batch)]

        def forward(rows: slice) -> Columns:
            return self._forward(images[rows], captions[rows], None if numbers is None else numbers[rows])

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
    def _forward(
        self,
        images: npt.NDArray[np.generic],
        captions: Sequence[str | None],
        numbers: npt.NDArray[np.float32] | None,
    ) -> Columns:
        tokens = self.model.read(captions)
        if tokens.truncated and not self._truncation_warned:
            self._truncation_warned = True
            logger.warning("captions longer than %d tokens are truncated", self.model.config.text_max_tokens)
        present = self.model.present(tokens.present, numbers)
        features = self._features(images)
        read = (tokens.ids, tokens.mask, present)
        context = self._image_context
        out = self.model.fuse(
            features,
            *(torch.from_numpy(array).to(self.device) for array in read),
            numbers=None if numbers is None else torch.from_numpy(numbers).to(self.device),
            context=None if context is None else context.expand(len(features), -1, -1),
        )
        logits = (out.logits, out.logits_img, out.logits_txt)
        fused, image, text = (x.float().softmax(dim=1).cpu().numpy() for x in logits)
        text[~present] = np.nan
        columns = {
            PROBABILITY: fused,
            "probability_image": image,
            "probability_text": text,
            "gate": out.gate.float().cpu().numpy(),
        }
        if self.model.ood_detector is not None:
            columns[OOD_SCORE] = self.model.ood_detector.of(features.float().cpu().numpy())
        return columns
