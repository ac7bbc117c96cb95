"""Feature maps of encoders as tokens, and tokens as one vector per patch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn
from torch.nn import functional

from wsikit.encoders.protocol import EncoderInfo, PatchEncoder, TokenEncoder
from wsikit.errors import ModelError


def pooled(cells: Tensor, side: int) -> Tensor:
    """A feature map (B, D, h, w) as tokens (B, side², D): means over cells, row-major.

    >>> import torch
    >>> pooled(torch.arange(16.0).view(1, 1, 4, 4), 2).flatten().tolist()
    [2.5, 4.5, 10.5, 12.5]
    """
    if min(cells.shape[2:]) < side:
        raise ModelError(
            f"tokens: a feature map of {cells.shape[2]} × {cells.shape[3]} cells, {side} × {side} were asked for; ask "
            "for fewer."
        )
    return functional.adaptive_avg_pool2d(cells, side).flatten(2).transpose(1, 2)


def map_of_module(module: nn.Module, images: Tensor, name: str) -> Tensor:
    """The last feature map (B, D, h, w) of a module of timm, of normalised images (B, 3, H, W).

    Raises
    ------
    ModelError
        If it has none: it has no `forward_intermediates`.
    """
    intermediates = getattr(getattr(module, "body", module), "forward_intermediates", None)
    if intermediates is None:
        raise ModelError(
            f"encoder {name!r}: gives no feature map. Use one of timm, or an AFLoc model; or its features."
        )
    found: Tensor = intermediates(images, indices=1, output_fmt="NCHW", intermediates_only=True)[-1]
    return found


class TokenVectors:
    """An encoder whose features are the tokens of another one, side by side: (B, side² · D)."""

    def __init__(self, encoder: PatchEncoder, side: int) -> None:
        if not isinstance(encoder, TokenEncoder):
            raise ModelError(f"encoder {encoder.info.name!r}: gives no tokens, only features of whole patches.")
        self.encoder, self.side = encoder, side
        px = encoder.info.patch_px
        self.width = encoder.encode_tokens(np.zeros((1, px, px, 3), np.uint8), side).shape[2]

    @property
    def info(self) -> EncoderInfo:
        """That of the encoder, as wide as the tokens."""
        return replace(self.encoder.info, width=self.side**2 * self.width)

    def encode(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Tokens of patches, uint8 (B, P, P, 3), float32 (B, side² · D)."""
        return self.encoder.encode_tokens(images, self.side).reshape(len(images), -1)
