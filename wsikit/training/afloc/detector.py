"""Fit the detector of tissue unlike that of the training to a trained AFLoc, on the features of its image encoder.

Places in the shared space hold what texts name, and hide much of what makes tissue unlike the training tissue.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from wsikit.models.afloc import AFLoc
from wsikit.models.ood import OodDetector
from wsikit.training.data import PatchSet, refuse_shared_groups

AT_ONCE = 64


def fit_detector(model: AFLoc, training: PatchSet, held_out: PatchSet) -> str:
    """Set `model.ood_detector` from training patches and held-out patches of other slides.

    Returns
    -------
    Why the model has no detector; empty if it has one.

    Raises
    ------
    RequestError
        If a slide or patient is in both sets.
    """
    refuse_shared_groups(training, held_out)
    model.ood_detector, fault = OodDetector.fit_if_enough(features(model, training), features(model, held_out))
    return fault


@torch.inference_mode()
def features(model: AFLoc, data: PatchSet) -> npt.NDArray[np.float32]:
    """Features of the image encoder, float32 (N, D), of patches."""
    device = next(model.parameters()).device
    model.eval()
    parts = []
    for first in range(0, len(data), AT_ONCE):
        some = torch.from_numpy(np.ascontiguousarray(data.images[first : first + AT_ONCE])).to(device)
        parts.append(model.image(some).float().cpu().numpy())
    return np.concatenate(parts)
