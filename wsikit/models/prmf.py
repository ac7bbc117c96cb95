"""PRMF, Progressive Robust Multi-Modal Fusion: gated fusion of a text and an image feature.

Two modes with one signature. `paper` is the published code's block (`NoiseRobustFusion`, HovChen/MMLNB); `robust`
is ours: both features are projected and normalised, the text is a residual on the image. Encoders are in `encoders`.
Axes: B patches, C classes, d the common width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from wsikit.errors import ModelError

GateKind = Literal["scalar", "vector"]
Mode = Literal["paper", "robust"]

HIDDEN = 256
"""Width of the gate's hidden layer, as published."""

DROPOUT = 0.3
"""Dropout before the classifier, as published."""


@dataclass(frozen=True)
class PRMFOutput:
    """Outputs of the block for a batch."""

    logits: Tensor
    """(B, C) of the fused feature."""
    logits_img: Tensor
    """(B, C) of the image alone."""
    logits_txt: Tensor
    """(B, C) of the text alone; not meaningful where the text is missing."""
    gate: Tensor
    """(B,) in [0, 1]: weight of the text, m·rho·c. The mean over the axes if the gate is a vector."""
    reliability: Tensor
    """(B, 1) or (B, d) in (0, 1): c, before the curriculum weight and before missing texts are masked."""


def mix(image: Tensor, text: Tensor, gate: Tensor) -> Tensor:
    """Interpolate from image to text: v + g·(t − v).

    `image`, `text` are (B, d), `gate` (B, 1) or (B, d) in [0, 1]. At g = 0 the result equals `image` exactly.

    >>> mix(torch.zeros(1, 2), torch.ones(1, 2), torch.full((1, 1), 0.25))
    tensor([[0.2500, 0.2500]])
    """
    return image + gate * (text - image)


class PRMF(nn.Module):
    """Progressive Robust Multi-Modal Fusion.

    Parameters
    ----------
    d_text, d_img : int
        Widths of the input features.
    d : int
        Common width. In mode "paper" the text is not projected, so it must equal `d_text`.
    gate : "scalar" or "vector"
        One weight per patch, or one per patch and axis.
    mode : "paper" or "robust"
        paper: c = σ(W2·relu(W1·[t; v])), f = c·t + (1−c)·(Wp·v), logits = Wc·dropout(relu(f)).
        robust: t~ = LN(Wt·t), v~ = LN(Wv·v), c = σ(MLP[t~; v~; t~∘v~; |t~−v~|]), f = v~ + g·(t~−v~),
        logits = head(LN(f)), with g = m·rho·c.
    n_classes : int
        Width of the three heads.

    Raises
    ------
    ModelError
        For an unknown mode or gate, or for a width that the mode "paper" cannot fuse.
    """

    def __init__(
        self,
        d_text: int,
        d_img: int,
        d: int = 768,
        gate: GateKind = "scalar",
        mode: Mode = "paper",
        *,
        n_classes: int = 3,
    ) -> None:
        super().__init__()
        if mode not in ("paper", "robust") or gate not in ("scalar", "vector"):
            raise ModelError(f"PRMF: mode {mode!r}, gate {gate!r}; choose paper or robust, and scalar or vector.")
        if mode == "paper" and d != d_text:
            raise ModelError(
                f"PRMF: mode 'paper' does not project the text, so d must be its width {d_text}, not {d}; "
                "set d accordingly or use mode 'robust'."
            )
        self.mode = mode
        d_gate = 1 if gate == "scalar" else d
        if mode == "paper":
            self.gate = nn.Sequential(nn.Linear(d_text + d_img, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, d_gate))
            self.project_text: nn.Module = nn.Identity()
            self.project_image: nn.Module = nn.Linear(d_img, d)
            self.head: nn.Module = nn.Sequential(nn.ReLU(), nn.Dropout(DROPOUT), nn.Linear(d, n_classes))
            self.head_image = nn.Linear(d_img, n_classes)
        else:
            self.gate = nn.Sequential(nn.Linear(4 * d, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, d_gate))
            self.project_text = nn.Sequential(nn.Linear(d_text, d), nn.LayerNorm(d))
            self.project_image = nn.Sequential(nn.Linear(d_img, d), nn.LayerNorm(d))
            self.head = nn.Sequential(nn.LayerNorm(d), nn.Dropout(DROPOUT), nn.Linear(d, n_classes))
            self.head_image = nn.Linear(d, n_classes)
        self.head_text = nn.Linear(d, n_classes)

    def reliability(self, text: Tensor, image: Tensor) -> Tensor:
        """The gate before curriculum and missing texts, c in (0, 1).

        In mode "paper" `text` (B, d_text) and `image` (B, d_img) are the encoders' outputs; in mode "robust" they
        are the projected (B, d).
        """
        pieces = [text, image]
        if self.mode == "robust":
            pieces += [text * image, (text - image).abs()]
        return torch.sigmoid(self.gate(torch.cat(pieces, dim=1)))  # (B, 1) or (B, d)

    def forward(self, text: Tensor, image: Tensor, *, present: Tensor | None = None, rho: float = 1.0) -> PRMFOutput:
        """Fuse a batch.

        Parameters
        ----------
        text : Tensor
            (B, d_text). Rows whose text is missing may hold anything, even NaN.
        image : Tensor
            (B, d_img).
        present : Tensor, optional
            (B,) bool, m of the formula: False without a text. Default: all present.
        rho : float
            Curriculum weight of the text in [0, 1]; 1 outside training.
        """
        if not 0.0 <= rho <= 1.0:
            raise ModelError(f"PRMF: rho is {rho}, and must lie in [0, 1].")
        if present is None:
            present = torch.ones(len(image), dtype=torch.bool, device=image.device)
        there = present.unsqueeze(1)  # (B, 1)
        text = torch.where(there, text, torch.zeros_like(text))

        t, v = self.project_text(text), self.project_image(image)  # (B, d) both
        c = self.reliability(text, image) if self.mode == "paper" else self.reliability(t, v)
        g = torch.where(there, rho * c, torch.zeros_like(c))
        return PRMFOutput(
            logits=self.head(mix(v, t, g)),
            logits_img=self.head_image(image if self.mode == "paper" else v),
            logits_txt=self.head_text(t),
            gate=g.mean(dim=1),
            reliability=c,
        )
