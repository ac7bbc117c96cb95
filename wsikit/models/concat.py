"""Baseline fusion of text and image: concatenated features and one linear classifier."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wsikit.models.prmf import DROPOUT, PRMFOutput


class Concatenation(nn.Module):
    """Concatenation of a text and an image feature, with the signature of `wsikit.models.prmf.PRMF`.

    Parameters
    ----------
    d_text, d_img : int
        Widths of the input features.
    n_classes : int
        Width of the three heads.
    """

    def __init__(self, d_text: int, d_img: int, *, n_classes: int = 3) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.Dropout(DROPOUT), nn.Linear(d_text + d_img, n_classes))
        self.head_text = nn.Linear(d_text, n_classes)
        self.head_image = nn.Linear(d_img, n_classes)

    def forward(self, text: Tensor, image: Tensor, *, present: Tensor, rho: float = 1.0) -> PRMFOutput:
        """Fuse a batch: (B, d_text) and (B, d_img). A missing text is zeros; there is no gate, so the gate is NaN.

        `present` is bool (B,); `rho` is not used.
        """
        text = torch.where(present.unsqueeze(1), text, torch.zeros_like(text))
        nothing = torch.full_like(text[:, :1], torch.nan)
        return PRMFOutput(
            logits=self.head(torch.cat([text, image], dim=1)),
            logits_img=self.head_image(image),
            logits_txt=self.head_text(text),
            gate=nothing.squeeze(1),
            reliability=nothing,
        )
