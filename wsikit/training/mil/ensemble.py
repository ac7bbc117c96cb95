"""The networks of all folds as one model: patch logits and attention scores are averaged before pooling.

So the model has one attention and one set of patch logits, and the slide's logits stay the attention-weighted sum of
those of its patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from wsikit.models.mil import MilModel
from wsikit.models.mil_config import MilConfig
from wsikit.training.mil.cohort import Bag, Cohort
from wsikit.training.mil.config import MilTrainConfig
from wsikit.training.mil.fit import Fitted, Targets


def ensemble(
    fitted: Sequence[Fitted], config: MilTrainConfig, cohort: Cohort, seen: Sequence[Bag], targets: Targets, **more: Any
) -> MilModel:
    """A model of the networks in `fitted`.

    Parameters
    ----------
    seen
        Training and validation slides: their class frequencies are recorded, and the median of their values separates
        the groups low and high.
    """
    about: dict[str, Any] = {
        "name": config.name,
        "version": config.version,
        "task": config.task,
        "pooling": config.mil.pooling,
        "alpha": config.mil.alpha,
        "classes": config.codes,
        "class_names": config.class_names,
        "colors": config.colors,
        "mpp": round(cohort.mpp, 6),
        "patch_px": cohort.patch_px,
        "stain": config.data.stain,
        "notice": notice_of(config, cohort),
        "encoder": cohort.encoder,
        "image": config.image,
        "members": len(fitted),
        "unit": config.unit,
        "survival": config.mil.survival,
        "times": targets.times,
    }
    if config.classes:
        counts = np.bincount([bag.label for bag in seen], minlength=len(config.codes))
        about["prior"] = tuple((counts / counts.sum()).tolist())
        about["balanced"] = config.training.class_weights == "balanced"
    arrays = {f"{index}.{name}": values for index, one in enumerate(fitted) for name, values in one.arrays.items()}
    model = MilModel(MilConfig(**about), arrays, **more)
    if config.classes or config.image is not None:
        return model
    values = np.array([model.slide(bag.features)["value"] for bag in seen])
    spread = float(values.std())
    about |= {"centre": float(np.median(values)), "spread": spread if spread > 1e-9 else 1.0}
    return MilModel(MilConfig(**about), arrays, **more)


def notice_of(config: MilTrainConfig, cohort: Cohort) -> str:
    """The notice of the model, with that of its encoder."""
    own, of_encoder = config.notice, cohort.encoder.notice if cohort.encoder else ""
    return f"{own} {of_encoder}" if of_encoder and of_encoder not in own else own
