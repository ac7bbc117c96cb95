"""MMLNB: an image branch, a text branch and a gated fusion (see prmf.py). Patches are uint8 (B, H, W, 3) RGB."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from wsikit.errors import ModelError
from wsikit.models.config import FeatureBranchConfig, ModelConfig
from wsikit.models.encoders import ImageEncoder, TextEncoder
from wsikit.models.ood import OodDetector
from wsikit.models.prmf import PRMF, PRMFOutput
from wsikit.models.stored_features import StoredFeatures
from wsikit.models.tokenizer import CaptionTokenizer, Tokens
from wsikit.scrub import scrub


class MMLNB(nn.Module):
    """Dual-branch classifier of patches with captions.

    `plain` as for `wsikit.models.encoders.ImageEncoder`: for prediction, with encoders in plain torch where there are.

    Attributes
    ----------
    config : ModelConfig
    tokenizer : CaptionTokenizer
    fingerprint : str or None
        sha256 of the files in `folder`; None for a model that was never saved.
    folder : Path or None
        Folder from which the model was loaded.
    card : str
        The model card, Markdown.
    ood_detector : OodDetector or None
        Detects out-of-distribution patches by their image features; None for a model without.
    """

    def __init__(self, config: ModelConfig, tokenizer: CaptionTokenizer, *, plain: bool = False) -> None:
        super().__init__()
        rows = config.text.options.get("vocab_size")
        if rows is not None and rows < tokenizer.vocabulary:
            raise ModelError(
                f"{config.name}: the tokenizer has {tokenizer.vocabulary} tokens and the text encoder {rows}; "
                "they are not from the same model."
            )
        self.config = config
        self.tokenizer = tokenizer
        self.fingerprint: str | None = None
        self.folder: Path | None = None
        self.card = ""
        self.ood_detector: OodDetector | None = None
        self.image: ImageEncoder | StoredFeatures
        if isinstance(config.image, FeatureBranchConfig):
            self.image = StoredFeatures(config.image)
        else:
            self.image = ImageEncoder(config.image, patch_px=config.patch_px, plain=plain)
        self.text = TextEncoder(config.text, plain=plain)
        self.fusion = PRMF(
            self.text.width,
            self.image.width,
            config.prmf.d,
            config.prmf.gate,
            config.prmf.mode,
            n_classes=len(config.classes),
        )

    def read(self, captions: Sequence[str | None]) -> Tokens:
        """Captions as tokens for the text branch, in training and prediction; words that name a class are removed.

        Otherwise the model would learn to read the label from the caption instead of the tissue from the image.
        """
        return self.tokenizer([caption and scrub(caption) for caption in captions])

    def parts(self) -> dict[str, nn.Module]:
        """The parts that training freezes and unfreezes separately."""
        return {"image": self.image, "text": self.text, "fusion": self.fusion}

    def forward(self, images: Tensor, ids: Tensor, mask: Tensor, present: Tensor, *, rho: float = 1.0) -> PRMFOutput:
        """Classify a batch.

        Parameters
        ----------
        images : Tensor
            uint8 (B, H, W, 3); of a model on stored features these, float (B, D).
        ids, mask : Tensor
            int64 (B, L), from the tokenizer.
        present : Tensor
            bool (B,), False without caption; these rows are classified from the image alone.
        rho : float
            Curriculum weight of the text, 1 outside of training.

        Returns
        -------
        PRMFOutput
            Logits (B, C) of the fusion and of both branches, and the gate.
        """
        return self.fuse(self.image(images), ids, mask, present, rho=rho)

    def fuse(self, v: Tensor, ids: Tensor, mask: Tensor, present: Tensor, *, rho: float = 1.0) -> PRMFOutput:
        """Like `forward`, from the features of the image branch, float (B, d_img)."""
        t = v.new_zeros(len(v), self.text.width)
        rows = present.nonzero().squeeze(1)  # without captions the text branch is not run
        if len(rows):
            t = t.index_copy(0, rows, self._read_texts(ids[rows], mask[rows]).to(t.dtype))
        output: PRMFOutput = self.fusion(t, v, present=present, rho=rho)
        return output

    def _read_texts(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Features of the text branch; of each different caption once, where patches share captions.

        A batch of another length may differ in its last bit, so few repeated captions are not worth it.
        """
        if self.training:
            return self.text(ids, mask)  # type: ignore[no-any-return]
        different, place = torch.unique(torch.cat([ids, mask], dim=1), dim=0, return_inverse=True)
        if 2 * len(different) > len(ids):
            return self.text(ids, mask)  # type: ignore[no-any-return]
        once: Tensor = self.text(different[:, : ids.shape[1]], different[:, ids.shape[1] :])
        return once[place]
