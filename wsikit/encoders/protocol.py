"""What an encoder of patches is. No torch here, so that any verb can read a description.

Features of an encoder are the column `features_<name>` of the patch table. Where images and texts share a space, the
images' places in it are the column of `EncoderInfo.shared_column`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

COLUMN_PREFIX = "features_"


@dataclass(frozen=True)
class StoredInput:
    """Stored features that an encoder reads instead of pixels: the column `features_<name>`."""

    name: str
    width: int
    """Numbers per patch."""
    fingerprint: str = ""
    """Of the encoder that gave them; empty: not recorded."""
    given_as: str = ""
    """How that encoder was named, for `wsikit features --encoder`; empty: as `name`."""


@dataclass(frozen=True)
class EncoderInfo:
    """Description of an encoder, enough to decide whether features that are stored are up to date.

    >>> EncoderInfo("uni", 1024, 224, 0.5, "…").column
    'features_uni'
    """

    name: str
    """Short name, as in the name of its column: lower case, digits, dots and hyphens."""
    width: int
    """Numbers per patch, D."""
    patch_px: int
    """Side of the patches that it was made for, px at `mpp`. Patches of another size are resized (`encode`)."""
    mpp: float | None
    """µm/px of the patches that it was made for; None: not of histology, any."""
    fingerprint: str
    """sha256 over weights, architecture and transform: equal fingerprints give equal features (to float tolerance)."""
    source: str = ""
    """Where the weights came from: hub id with revision, or file."""
    licence: str = ""
    """Licence of the weights, as an SPDX name or in words; empty: unknown."""
    notice: str = ""
    """Shown with every output, such as for random weights."""
    shared_width: int | None = None
    """Width of the space that images and texts share; None: no texts."""
    competitors: str = "lexicon"
    """What a concept competes with by default: "lexicon", the concepts it could be mistaken for; "negation", "no …" of
    its synonyms, for encoders trained to compare these two; "both"."""
    reads: StoredInput | None = None
    """Features that it reads instead of pixels; None: pixels."""
    detector: str = ""
    """sha256 of its detector of tissue unlike that of its training; empty: it has none. Not in `fingerprint`: features
    do not depend on it."""

    @property
    def column(self) -> str:
        """Column of the features."""
        return COLUMN_PREFIX + self.name

    @property
    def shared_column(self) -> str:
        """Column of the images' places in the space shared with texts."""
        return f"{self.column}-shared"

    def record(self) -> dict[str, Any]:
        """Stored with the column, as plain JSON values."""
        return {
            "name": self.name,
            "fingerprint": self.fingerprint,
            "patch_px": self.patch_px,
            "mpp": self.mpp,
            "source": self.source,
            "licence": self.licence,
            "notice": self.notice,
        }


@runtime_checkable
class PatchEncoder(Protocol):
    """An encoder of patches. A row of its output depends on this row's patch only."""

    @property
    def info(self) -> EncoderInfo: ...

    def encode(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Features, float32 (B, D), of patches, uint8 (B, P, P, 3) RGB."""


@runtime_checkable
class TextImageEncoder(PatchEncoder, Protocol):
    """An encoder whose images and texts share a space (CLIP and its like)."""

    @property
    def logit_scale(self) -> float:
        """Factor of the cosines before the softmax over texts, as trained: the inverse of the temperature."""

    def encode_shared(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Places of patches in the shared space, float32 (B, S), each of length 1."""

    def encode_texts(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Places of K texts in the shared space, float32 (K, S), each of length 1. An empty text is refused."""


@runtime_checkable
class TokenEncoder(PatchEncoder, Protocol):
    """An encoder that also gives the places of a patch: cells of its feature map."""

    def encode_tokens(self, images: npt.NDArray[np.uint8], side: int) -> npt.NDArray[np.float32]:
        """Tokens, float32 (B, side², D), row-major: the feature map, averaged to `side` × `side` cells. ModelError if
        the encoder has none."""
