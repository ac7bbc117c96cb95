"""Telling a trained model what its training patches look like, so that it can say later what is unlike them."""

from __future__ import annotations

from wsikit.errors import ModelError
from wsikit.models.mmlnb import MMLNB
from wsikit.models.ood import OodDetector
from wsikit.training.data import PatchSet, refuse_shared_groups
from wsikit.training.forward import image_features


def fit_ood_detector(model: MMLNB, training: PatchSet, held_out: PatchSet) -> str:
    """Set `model.ood_detector` from its training patches and those of other slides; no label is looked at.

    Returns
    -------
    str
        Why the model will not know what is unlike its training patches; empty if it will.

    Raises
    ------
    RequestError
        If a slide or patient is in both sets.
    """
    refuse_shared_groups(training, held_out)
    try:
        model.ood_detector = OodDetector.fit(
            image_features(model, training.images), image_features(model, held_out.images)
        )
    except ModelError as error:
        return f"the model will not know what is unlike its training patches: {error}"
    return ""
