"""Fit the detector of tissue unlike that of the training to a trained AFLoc: on places of patches, which are stored."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from wsikit.errors import ModelError
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
    try:
        model.ood_detector = OodDetector.fit(places(model, training), places(model, held_out))
    except ModelError as error:
        return f"no out-of-distribution detector: {error}"
    return ""


@torch.inference_mode()
def places(model: AFLoc, data: PatchSet) -> npt.NDArray[np.float32]:
    """Places of patches in the shared space, float32 (N, S), each of length 1."""
    device = next(model.parameters()).device
    model.eval()
    parts = []
    for first in range(0, len(data), AT_ONCE):
        some = torch.from_numpy(np.ascontiguousarray(data.images[first : first + AT_ONCE])).to(device)
        parts.append(functional.normalize(model.patches(some), dim=-1).float().cpu().numpy())
    return np.concatenate(parts)
