"""Rivals and controls of the fusion: simple predictors that it has to beat, and that isolate what a gain comes from.

A mean of logits here is the normalised geometric mean of probabilities. Every rival is fitted on the training patches
of the fold only; settings are fixed beforehand, so nothing is selected.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from wsikit.errors import RequestError
from wsikit.training.baselines import colour_histogram, fit_histogram_baseline, spread
from wsikit.training.data import PatchSet
from wsikit.training.patch_facts import in_slide

Probs = npt.NDArray[np.floating]
Floats = npt.NDArray[np.floating]
T = TypeVar("T")

Rival = Literal[
    "mean_of_logits",
    "facts",
    "facts_in_slide",
    "facts_in_field",
    "image_and_facts",
    "image_and_facts_in_slide",
    "image_and_facts_in_field",
    "image_and_colours",
    "image_in_slide",
    "two_image_seeds",
    "other_image",
    "other_image_and_text",
]

TITLES: Mapping[Rival, str] = {
    "mean_of_logits": "mean of both, logits",
    "facts": "boosting on facts",
    "facts_in_slide": "boosting on facts, slide context",
    "facts_in_field": "boosting on facts, slide and field context",
    "image_and_facts": "image + boosting on facts",
    "image_and_facts_in_slide": "image + boosting on facts, slide context",
    "image_and_facts_in_field": "image + boosting on facts, slide and field context",
    "image_and_colours": "image + colour histogram",
    "image_in_slide": "image, slide context",
    "two_image_seeds": "two image seeds",
    "other_image": "other image branch",
    "other_image_and_text": "other image branch + text",
}
"""Names in tables. "+" is the mean of logits."""

ON_OTHER_IMAGE: frozenset[Rival] = frozenset(("other_image", "other_image_and_text"))
"""Rivals that need the settings of another image branch (`other_image`)."""

DEFAULT: tuple[Rival, ...] = tuple(name for name in TITLES if name not in ON_OTHER_IMAGE | {"two_image_seeds"})
"""All that train no further image branch."""

ON_FIELD: frozenset[Rival] = frozenset(("facts_in_field", "image_and_facts_in_field"))
"""Rivals that need the facts of the field around each patch (`numbers.field_um`)."""

ON_FACTS: frozenset[Rival] = ON_FIELD | {"facts", "facts_in_slide", "image_and_facts", "image_and_facts_in_slide"}
"""Rivals that need measured facts."""

CLIP = 1e-6
"""Minimum probability whose logarithm is taken."""

PENALTY = 0.01
"""Inverse penalty C of the logistic regression on image features: strong, as the branch has seen these patches."""


def mean_of_logits(*probs: Probs) -> npt.NDArray[np.float64]:
    """Mean of the log-probabilities of several predictions (N, C), as probabilities.

    >>> mean_of_logits(np.array([[0.9, 0.1]]), np.array([[0.5, 0.5]])).round(2).tolist()
    [[0.75, 0.25]]
    """
    logits = np.mean([np.log(np.maximum(np.asarray(one, np.float64), CLIP)) for one in probs], axis=0)
    exponent = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(exponent / exponent.sum(axis=1, keepdims=True), dtype=np.float64)


def fit_boosting(values: Floats, labels: npt.NDArray[np.int64], *, seed: int) -> Any:
    """Gradient-boosted trees on numbers (N, F) that may be NaN: scikit-learn's defaults, balanced class weights."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    model = HistGradientBoostingClassifier(early_stopping=False, class_weight="balanced", random_state=seed)
    return model.fit(values, labels)


def fit_features(values: Floats, labels: npt.NDArray[np.int64]) -> Any:
    """Logistic regression on standardised image features (N, D), with balanced class weights."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(C=PENALTY, max_iter=2000, class_weight="balanced")).fit(
        values, labels
    )


def check_rivals(
    wanted: Sequence[Rival], *, facts: bool, explicit: bool, field: bool = False
) -> tuple[tuple[Rival, ...], str]:
    """The rivals that can be computed, and a line on those that cannot (empty if all can).

    Raises
    ------
    RequestError
        If `explicit` (they were named in the configuration) and some cannot be computed.
    """
    if not field and explicit and (of_field := sorted(ON_FIELD & set(wanted))):
        raise RequestError(f"rivals: {', '.join(of_field)} need the field of each patch; set numbers.field_um.")
    wanted = tuple(name for name in wanted if field or name not in ON_FIELD)
    lacking = () if facts else tuple(name for name in wanted if name in ON_FACTS)
    if lacking and explicit:
        raise RequestError(
            f"rivals: {', '.join(lacking)} need measured facts, and these captions have none. Use the captioner "
            "morphometry or morphometry-in-slide, or leave them out."
        )
    line = f"left out, as these captions have no measured facts: {', '.join(TITLES[name] for name in lacking)}"
    return tuple(name for name in wanted if name not in lacking), line if lacking else ""


@dataclass(frozen=True)
class Rivals:
    """Fits rivals on training patches and predicts test patches; what several share is fitted once.

    Attributes that a requested rival does not need may be None.
    """

    training: PatchSet
    test: PatchSet
    n_classes: int
    seed: int
    image: Probs | None = None
    """(M, C) of the image branch for the test patches."""
    text: Probs | None = None
    """(M, C) of the text branch; rows of NaN without a caption."""
    facts: tuple[Floats, Floats] | None = None
    """Facts (N, F) of the training and of the test patches."""
    features: Callable[[PatchSet], Floats] | None = None
    """Features (N, D) of the frozen image branch."""
    second_image: Callable[[], Probs] | None = None
    """(M, C) of an image branch trained with another seed."""
    other_image: Callable[[], Probs] | None = None
    """(M, C) of an image branch with other settings, trained on the same patches."""

    def probs(self, name: Rival) -> npt.NDArray[np.float64]:
        """Probabilities (M, C) of one rival for the test patches."""
        if name == "mean_of_logits":
            return self._with_image(_known_or(self.text, self.image))
        if name == "facts":
            return self._facts_alone
        if name == "facts_in_slide":
            return self._facts_in_slide
        if name == "facts_in_field":
            return self._facts_in_field
        if name == "image_and_facts_in_field":
            return self._with_image(self._facts_in_field)
        if name == "image_and_facts":
            return self._with_image(self._facts_alone)
        if name == "image_and_facts_in_slide":
            return self._with_image(self._facts_in_slide)
        if name == "image_and_colours":
            colours = fit_histogram_baseline(self.training.images, self.training.labels)
            return self._with_image(spread(colours, colour_histogram(self.test.images), self.n_classes))
        if name == "image_in_slide":
            return self._image_in_slide()
        if name == "other_image":
            return np.asarray(self._other_image, dtype=np.float64)
        if name == "other_image_and_text":
            return mean_of_logits(self._other_image, _known_or(self.text, self._other_image))
        return self._with_image(_needed(self.second_image, name)())

    def _with_image(self, other: Probs) -> npt.NDArray[np.float64]:
        return mean_of_logits(_needed(self.image, "the image branch"), other)

    @cached_property
    def _facts_alone(self) -> npt.NDArray[np.float64]:
        return self._boosted(*_needed(self.facts, "facts"))

    @cached_property
    def _facts_in_slide(self) -> npt.NDArray[np.float64]:
        known, asked = _needed(self.facts, "facts")
        return self._boosted(in_slide(known, self.training.slide_ids), in_slide(asked, self.test.slide_ids))

    @cached_property
    def _facts_in_field(self) -> npt.NDArray[np.float64]:
        known, asked = (
            np.concatenate([in_slide(facts, data.slide_ids), around, facts - around], axis=1)
            for facts, data in zip(_needed(self.facts, "facts"), (self.training, self.test), strict=True)
            for around in (_needed(data.around, "facts of the field"),)
        )
        return self._boosted(known, asked)

    @cached_property
    def _other_image(self) -> Probs:
        return _needed(self.other_image, "other_image")()

    def _boosted(self, known: Floats, asked: Floats) -> npt.NDArray[np.float64]:
        measured = np.isfinite(known).any(axis=0)  # scikit-learn refuses a column without any value
        if not measured.any():
            raise RequestError("rivals: no fact is measured at this scale, so nothing can be fitted on facts.")
        fitted = fit_boosting(known[:, measured], self.training.labels, seed=self.seed)
        return spread(fitted, asked[:, measured], self.n_classes)

    def _image_in_slide(self) -> npt.NDArray[np.float64]:
        features_of = _needed(self.features, "image_in_slide")
        known, asked = (in_slide(features_of(data), data.slide_ids) for data in (self.training, self.test))
        return spread(fit_features(known, self.training.labels), asked, self.n_classes)


def _known_or(probs: Probs | None, other: Probs | None) -> Probs:
    """Rows of `probs`; those of `other` where they are NaN."""
    first, second = _needed(probs, "the text branch"), _needed(other, "the image branch")
    return np.where(np.isfinite(first), first, second)


def _needed(value: T | None, what: str) -> T:
    if value is None:
        raise RequestError(f"rivals: {what} is missing, so this rival cannot be computed.")
    return value
