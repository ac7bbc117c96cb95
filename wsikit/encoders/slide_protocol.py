"""What an encoder of a slide is: features of its patches in, one vector out. And the simplest one, their mean.

The vector is stored as `slide_features/<name>` of the patch table (`wsikit.store.slide_vectors`). No torch here.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from wsikit.errors import ModelError, RequestError

Features = npt.NDArray[np.float32]
Coordinates = npt.NDArray[np.int64]


@dataclass(frozen=True)
class SlideEncoderInfo:
    """Description of a slide encoder, stored with its output."""

    name: str
    """Short name, as in `slide_features/<name>`."""
    width: int | None
    """Numbers per slide, S; None: as many as a patch has."""
    given: int | None
    """Numbers per patch that it takes, D; None: any."""
    fingerprint: str
    """sha256 over weights and architecture."""
    patch_encoder: str = ""
    """Name of the patch encoder whose features it was trained on; empty: any."""
    source: str = ""
    """File of weights."""
    licence: str = ""
    """Licence of the weights; empty: unknown."""

    def record(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "name": self.name,
            "fingerprint": self.fingerprint,
            "patch_encoder": self.patch_encoder,
            "source": self.source,
            "licence": self.licence,
        }


@runtime_checkable
class SlideEncoder(Protocol):
    """An encoder of slides. Its output does not depend on the order of the patches."""

    @property
    def info(self) -> SlideEncoderInfo: ...

    def encode(self, features: Features, coords: Coordinates, patch_size_lv0: float) -> Features:
        """Features of the slide, float32 (S,).

        Parameters
        ----------
        features
            Features of N patches, float32 (N, D).
        coords
            Upper left corners (x, y) of the patches in px of level 0, int64 (N, 2).
        patch_size_lv0
            Side of the patches in px of level 0.
        """


class MeanPooling:
    """The mean of the features over patches.

    >>> features = np.array([[0, 2], [4, 4]], np.float32)
    >>> MeanPooling().encode(features, np.zeros((2, 2), np.int64), 224)
    array([2., 3.], dtype=float32)
    """

    info = SlideEncoderInfo("mean", None, None, hashlib.sha256(b"mean of float64, 1").hexdigest())

    def encode(self, features: Features, coords: Coordinates, patch_size_lv0: float) -> Features:
        """Mean, float32 (D,), summed in float64."""
        check_patches(self.info, features, coords, patch_size_lv0)
        mean: Features = features.mean(axis=0, dtype=np.float64).astype(np.float32)
        return mean


def check_patches(info: SlideEncoderInfo, features: Features, coords: Coordinates, patch_size_lv0: float) -> None:
    """Refuse patches of which `info`'s encoder can make no vector.

    Raises
    ------
    RequestError
        There are none, some features are not finite, or a patch has no size.
    ModelError
        The shapes do not fit.
    """
    if features.ndim != 2 or coords.shape != (len(features), 2):
        raise ModelError(
            f"slide encoder {info.name!r}: got features of shape {features.shape} and corners of {coords.shape}; "
            "expected (N, D) and (N, 2)."
        )
    if info.given is not None and features.shape[1] != info.given:
        made_for = f"of {info.patch_encoder}" if info.patch_encoder else "that it was trained on"
        raise ModelError(
            f"slide encoder {info.name!r}: got features of width {features.shape[1]}; expected {info.given}, "
            f"the width of features {made_for}."
        )
    if not len(features):
        raise RequestError(f"slide encoder {info.name!r}: the slide has no patches with features.")
    if not np.isfinite(features).all():
        bad = int((~np.isfinite(features).all(axis=1)).sum())
        raise RequestError(
            f"slide encoder {info.name!r}: the features of {bad} of {len(features)} patches are not finite. "
            "Leave these patches out, or make their features again."
        )
    if not patch_size_lv0 > 0:
        raise RequestError(f"slide encoder {info.name!r}: a patch of {patch_size_lv0} px; expected more than 0.")
