"""Fit the out-of-distribution detector of a trained model on the features of its training patches."""

from __future__ import annotations

from wsikit.models.mmlnb import MMLNB
from wsikit.models.ood import OodDetector
from wsikit.training.data import PatchSet, refuse_shared_groups
from wsikit.training.forward import image_features


def fit_ood_detector(model: MMLNB, training: PatchSet, held_out: PatchSet) -> str:
    """Set `model.ood_detector` from training patches and held-out patches of other slides; labels are not used.

    Returns
    -------
    str
        Why the model has no out-of-distribution detector; empty if it has one.

    Raises
    ------
    RequestError
        If a slide or patient is in both sets.
    """
    refuse_shared_groups(training, held_out)
    model.ood_detector, fault = OodDetector.fit_if_enough(
        image_features(model, training.images), image_features(model, held_out.images)
    )
    return fault
