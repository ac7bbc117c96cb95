"""MMLNB: an image branch, a text branch and a gated fusion (see prmf.py). Patches are uint8 (B, H, W, 3) RGB."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from wsikit.errors import ModelError
from wsikit.models.config import FeatureBranchConfig, ModelConfig, PRMFConfig
from wsikit.models.encoders import ImageEncoder, TextEncoder
from wsikit.models.fact_values import FactValues
from wsikit.models.image_context import ImageContext
from wsikit.models.ood import OodDetector
from wsikit.models.prmf import PRMF, PRMFOutput
from wsikit.models.prmf_calibrated import CalibratedPRMF
from wsikit.models.slide_context import columns_per_fact
from wsikit.models.stored_features import StoredFeatures
from wsikit.models.tokenizer import CaptionTokenizer, Tokens
from wsikit.scrub import scrub


def build_fusion(
    config: PRMFConfig, d_text: int, d_img: int, *, n_classes: int, said: int = 0
) -> PRMF | CalibratedPRMF:
    """The untrained fusion of a configuration; `said` as `d_said` of `CalibratedPRMF`."""
    if config.revision is not None:
        return CalibratedPRMF(d_text, d_img, config.d, n_classes=n_classes, d_said=said)
    return PRMF(d_text, d_img, config.d, config.gate, config.mode, n_classes=n_classes)


class NoWords(TextEncoder):
    """In place of the text encoder of a model that reads the numbers of captions only: features of width 0."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.width = 0

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return torch.zeros(len(ids), 0, device=ids.device)


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
    numbers : FactValues or None
        Reads the numbers of captions; None for a model that reads their words only.
    image_context : ImageContext or None
        Adds what the slide looks like to the image feature; None for a model that sees the patch alone.
    d_text : int
        Width of the feature of the text branch: of the words, and of the numbers.
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
        of_numbers = config.numbers
        self.text = NoWords() if of_numbers and not of_numbers.words else TextEncoder(config.text, plain=plain)
        self.numbers: FactValues | None = None
        if of_numbers is not None:
            per_fact = columns_per_fact(in_slide=of_numbers.in_slide, in_field=of_numbers.field_um is not None)
            n_facts = len(of_numbers.facts)
            self.numbers = FactValues(n_facts * per_fact, width=of_numbers.width, bins=of_numbers.bins, facts=n_facts)
        self.image_context = ImageContext(self.image.width) if config.image.context == "slide" else None
        said = self.numbers.facts if self.numbers and config.prmf.revision is not None else 0
        self.d_text = self.text.width + (self.numbers.width if self.numbers else 0) + said
        self.fusion = build_fusion(config.prmf, self.d_text, self.image.width, n_classes=len(config.classes), said=said)

    def read(self, captions: Sequence[str | None]) -> Tokens:
        """Captions as tokens for the text branch, in training and prediction; words that name a class are removed.

        Otherwise the model would learn to read the label from the caption instead of the tissue from the image.
        """
        return self.tokenizer([caption and scrub(caption) for caption in captions])

    def present(
        self, words: npt.NDArray[np.bool_], numbers: npt.NDArray[np.floating] | None = None
    ) -> npt.NDArray[np.bool_]:
        """Which patches have something for the text branch to read, bool (B,): a caption, `words` (B,), or, of a model
        that reads numbers, one of `numbers` (B, 2, C)."""
        if self.config.numbers is None:
            return words
        measured = np.zeros(len(words), dtype=bool) if numbers is None else np.isfinite(numbers[:, 0]).any(axis=1)
        return words | measured if self.config.numbers.words else measured

    def parts(self) -> dict[str, nn.Module]:
        """The parts that training freezes and unfreezes separately."""
        image: nn.Module = self.image if self.image_context is None else nn.ModuleList([self.image, self.image_context])
        text: nn.Module = self.text if self.numbers is None else nn.ModuleList([self.text, self.numbers])
        return {"image": image, "text": text, "fusion": self.fusion}

    def forward(
        self,
        images: Tensor,
        ids: Tensor,
        mask: Tensor,
        present: Tensor,
        *,
        numbers: Tensor | None = None,
        context: Tensor | None = None,
        rho: float = 1.0,
    ) -> PRMFOutput:
        """Classify a batch.

        Parameters
        ----------
        images : Tensor
            uint8 (B, H, W, 3); of a model on stored features these, float (B, D).
        ids, mask : Tensor
            int64 (B, L), from the tokenizer.
        present : Tensor
            bool (B,), False without caption; these rows are classified from the image alone.
        numbers : Tensor, optional
            float (B, 2, C), see `wsikit.models.slide_context.number_columns`. Default: none is known.
        context : Tensor, optional
            float (B, 2, d_img), see `wsikit.models.image_context.image_context`. Default: no slide is known.
        rho : float
            Curriculum weight of the text, 1 outside of training.

        Returns
        -------
        PRMFOutput
            Logits (B, C) of the fusion and of both branches, and the gate.
        """
        return self.fuse(self.image(images), ids, mask, present, numbers=numbers, context=context, rho=rho)

    def fuse(
        self,
        v: Tensor,
        ids: Tensor,
        mask: Tensor,
        present: Tensor,
        *,
        numbers: Tensor | None = None,
        context: Tensor | None = None,
        rho: float = 1.0,
    ) -> PRMFOutput:
        """Like `forward`, from the features of the image encoder, float (B, d_img)."""
        v = self.in_slide(v, context)
        t = v.new_zeros(len(v), self.d_text)
        rows = present.nonzero().squeeze(1)  # without captions the text branch is not run
        if len(rows):
            words = self._read_texts(ids[rows], mask[rows])
            read = self._with_numbers(words, None if numbers is None else numbers[rows])
            t = t.index_copy(0, rows, read.to(t.dtype))
        output: PRMFOutput = self.fusion(t, v, present=present, rho=rho)
        return output

    def in_slide(self, v: Tensor, context: Tensor | None) -> Tensor:
        """The image branch's feature (B, d_img), from that of the patch and the context of its slide (B, 2, d_img)."""
        if self.image_context is None or context is None:
            return v
        found: Tensor = self.image_context(v, context)
        return found

    def text_features(self, ids: Tensor, mask: Tensor, numbers: Tensor | None = None) -> Tensor:
        """The text branch's feature (B, d_text): that of the words, then that of the numbers, and,
        of a fusion of revision 2, the ranks of the facts; as for `forward`."""
        return self._with_numbers(self.text(ids, mask), numbers)

    def _with_numbers(self, words: Tensor, numbers: Tensor | None) -> Tensor:
        if self.numbers is None:
            return words
        if numbers is None:
            numbers = words.new_full((len(words), 2, self.numbers.numbers), torch.nan)
        read = [words, self.numbers(numbers).to(words.dtype)]
        if self.config.prmf.revision is not None:
            read.append(self.numbers.ranks(numbers).to(words.dtype))
        return torch.cat(read, dim=1)

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
