"""MMLNB: a patch and its caption, two branches, one gated fusion (see prmf.py). Patches uint8 (B, H, W, 3) RGB."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from wsikit.errors import ModelError
from wsikit.models.config import ModelConfig
from wsikit.models.encoders import ImageEncoder, TextEncoder
from wsikit.models.ood import OodDetector
from wsikit.models.prmf import PRMF, PRMFOutput
from wsikit.models.tokenizer import CaptionTokenizer, Tokens
from wsikit.scrub import scrub


class MMLNB(nn.Module):
    """Dual-branch classifier of patches with captions.

    Attributes
    ----------
    config : ModelConfig
    tokenizer : CaptionTokenizer
    fingerprint : str or None
        sha256 of the folder the model was loaded from; None for a model that was never saved.
    folder : Path or None
        That folder.
    card : str
        The model card that lay in it, Markdown.
    ood_detector : OodDetector or None
        What its training patches looked like to the image branch, if that is known.
    """

    def __init__(self, config: ModelConfig, tokenizer: CaptionTokenizer) -> None:
        super().__init__()
        rows = config.text.options.get("vocab_size")
        if rows is not None and rows < tokenizer.vocabulary:
            raise ModelError(
                f"{config.name}: the tokenizer knows {tokenizer.vocabulary} tokens and the text encoder {rows}; "
                "they are not of one model."
            )
        self.config = config
        self.tokenizer = tokenizer
        self.fingerprint: str | None = None
        self.folder: Path | None = None
        self.card = ""
        self.ood_detector: OodDetector | None = None
        self.image = ImageEncoder(config.image, patch_px=config.patch_px)
        self.text = TextEncoder(config.text)
        self.fusion = PRMF(
            self.text.width,
            self.image.width,
            config.prmf.d,
            config.prmf.gate,
            config.prmf.mode,
            n_classes=len(config.classes),
        )

    def read(self, captions: Sequence[str | None]) -> Tokens:
        """Captions as the text branch takes them, in training and after: label words out, then token ids.

        A caption that names the class would teach the model to read the answer instead of the tissue.
        """
        return self.tokenizer([caption and scrub(caption) for caption in captions])

    def parts(self) -> dict[str, nn.Module]:
        """The parts that training freezes and frees one by one."""
        return {"image": self.image, "text": self.text, "fusion": self.fusion}

    def forward(self, images: Tensor, ids: Tensor, mask: Tensor, present: Tensor, *, rho: float = 1.0) -> PRMFOutput:
        """Classify a batch.

        Parameters
        ----------
        images : Tensor
            uint8 (B, H, W, 3).
        ids, mask : Tensor
            int64 (B, L), as the tokenizer gives them.
        present : Tensor
            bool (B,), False where there is no caption; such rows are classified by the image alone.
        rho : float
            Curriculum weight on the text, 1 outside of training.
        """
        return self.fuse(self.image(images), ids, mask, present, rho=rho)

    def fuse(self, v: Tensor, ids: Tensor, mask: Tensor, present: Tensor, *, rho: float = 1.0) -> PRMFOutput:
        """As `forward`, from the image branch's features, float (B, d_img)."""
        t = v.new_zeros(len(v), self.text.width)
        rows = present.nonzero().squeeze(1)  # without captions the text branch is not run at all
        if len(rows):
            t = t.index_copy(0, rows, self.text(ids[rows], mask[rows]).to(t.dtype))
        output: PRMFOutput = self.fusion(t, v, present=present, rho=rho)
        return output
