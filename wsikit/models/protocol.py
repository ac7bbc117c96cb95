"""The interface of models that classify patches: their description (`ModelInfo`) and their predictions
(`PatchModel`). No torch here: a run can decide that nothing is to do without loading a model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from wsikit.errors import ModelError

Input = str
"""An input of a model: "image", "text", "facts" (numbers measured on the patch), or "features:NAME" for the stored
column `features_NAME`."""

IMAGE: Input = "image"
TEXT: Input = "text"
NUMBERS: Input = "facts"
MAP_FACT = "localize:"
"""Prefix of a fact that is the map of a concept: `localize:neuropil` is the column `localize_neuropil`."""
FEATURES = "features:"
"""Prefix of an input that is a stored feature column."""

PROBABILITY = "probability"
"""Column of every model: float32 (N, C), rows sum to 1."""

OOD_SCORE = "ood_score"
"""Optional column, float32 (N,): above 1, farther from the training patches than 99 % of held-out patches."""


@dataclass(frozen=True)
class ModelColumn:
    """An output column of a model, one row per patch, float32."""

    name: str
    per_class: bool = False
    """(N, C) in the order of the model's classes, else (N,)."""
    unit: str = ""
    names: tuple[str, ...] = ()
    """(N, len(names)), one number per name; empty: as `per_class` states."""
    kind: str = ""
    """Of the column `value`: what the sum over the slide is, such as "risk"; empty: a value in `unit`."""

    def width(self, n_classes: int) -> int | None:
        """Numbers per patch; None: the column is (N,)."""
        return n_classes if self.per_class else len(self.names) or None


@dataclass(frozen=True)
class ConceptAxis:
    """A criterion that a model states for each patch, and that can be set by hand: see `SetsConcepts`."""

    name: str
    """As in `wsikit predict --set NAME=OPTION`."""
    title: str
    """For display."""
    options: tuple[str, ...]
    """From little to much."""


@dataclass(frozen=True)
class FeatureSource:
    """The features that a model was trained on: which encoder gave them."""

    name: str
    """As in the input `features:NAME`."""
    width: int
    """Numbers per patch."""
    fingerprint: str = ""
    """Of the encoder (`EncoderInfo.fingerprint`); empty: not recorded."""
    encoder: str = ""
    """How the encoder was named in the training, as `wsikit.encoders.registry.load_encoder` takes it; empty: `name`."""


@dataclass(frozen=True)
class ModelInfo:
    """Description of a model, available without loading its weights.

    Examples
    --------
    >>> info = ModelInfo(
    ...     name="toy", version="1", architecture="toy", fingerprint="0", patch_px=224, mpp=0.5, stain="H&E",
    ...     classes=("a", "b"), class_names=("class a", "class b"), colors=("#000000", "#ffffff"),
    ...     inputs=("image", "features:uni"),
    ... )
    >>> info.feature_columns
    ('features_uni',)
    """

    name: str
    version: str
    architecture: str
    """Built in ("mmlnb"), or the name of a plug-in of the entry-point group `wsikit.models`."""
    fingerprint: str
    """sha256 of the files that determine predictions. Equal fingerprints give equal predictions."""
    patch_px: int
    """Side of a patch, px at `mpp`."""
    mpp: float
    """µm/px of the patches."""
    stain: str
    """"fluorescence", "brightfield", or the name of a brightfield stain such as "H&E"."""
    classes: tuple[str, ...]
    """Class codes in the order of the probabilities."""
    class_names: tuple[str, ...]
    colors: tuple[str, ...]
    """One "#rrggbb" per class."""
    background: tuple[str, ...] = ()
    """Codes of the classes that do not vote, such as other tissue."""
    notice: str = "Research use only. Not for diagnosis."
    """Shown on every output of the model."""
    captioner: str = "morphometry"
    """Name of the captioner whose captions the model was trained on; the default captioner of a run."""
    inputs: tuple[Input, ...] = (IMAGE,)
    """Inputs of `PatchModel.predict`."""
    columns: tuple[ModelColumn, ...] = (ModelColumn(PROBABILITY, per_class=True),)
    """Outputs of `PatchModel.predict`."""
    features: tuple[FeatureSource, ...] = ()
    """Encoders of the inputs "features:NAME", as far as known; features of other encoders are refused."""
    prior: tuple[float, ...] | None = None
    """(C,) frequency of each class among the training patches, sum 1; None: not recorded."""
    balanced: bool = False
    """Trained with balanced class weights: the probabilities assume equal frequencies, not `prior`."""
    facts: tuple[str, ...] = ()
    """Names of the facts of the input "facts", in the order of its columns: of `wsikit.facts.FACTS`, or `MAP_FACT` and
    the key of a concept whose map `wsikit localize` made."""
    stated: bool = False
    """The facts are those that captions state in words, also where measured ones are there."""
    maps: tuple[tuple[str, str], ...] = ()
    """(fact, fingerprint of the encoder) of the facts that are maps of concepts; maps by another one are refused."""
    field_um: float | None = None
    """Standard deviation, µm, of the field around a patch whose mean facts are also read; None: none are read."""
    whole_slide: tuple[str, ...] = ()
    """Columns that depend on the predictions of all patches of the slide: see `Finishes`."""
    vote: Mapping[str, Any] | None = field(default=None, hash=False)
    """Settings of the vote that it is made for, by their names in `wsikit.VoteParameters`; None: the defaults."""
    fits_to: tuple[Input, ...] = ()
    """Inputs of which the model reads all, or a sample, of the slide before it predicts: see `FitsToSlide`."""
    axes: tuple[ConceptAxis, ...] = ()
    """Concepts through which the model predicts: see `SetsConcepts`."""
    concepts_set: tuple[tuple[str, str], ...] = ()
    """(axis, option) of concepts that were set by hand, for all patches; in the receipt of the predictions."""

    def __post_init__(self) -> None:
        n = len(self.classes)
        if n < 2 or len(set(self.classes)) != n or len(self.class_names) != n or len(self.colors) != n:
            raise ModelError(
                f"model {self.name}: {n} classes, {len(self.class_names)} names and {len(self.colors)} colours; "
                "expected two or more different classes with one name and one colour each."
            )
        if PROBABILITY not in {column.name for column in self.columns if column.per_class}:
            raise ModelError(f"model {self.name}: gives no column {PROBABILITY!r} with one entry per class.")
        if self.prior is not None and (len(self.prior) != n or abs(sum(self.prior) - 1) > 1e-3 or min(self.prior) < 0):
            raise ModelError(f"model {self.name}: prior {self.prior}; expected {n} frequencies of sum 1.")
        known = (IMAGE, TEXT, NUMBERS)
        wrong = [name for name in self.inputs if name not in known and not name.startswith(FEATURES)]
        if wrong or not self.inputs:
            raise ModelError(
                f"model {self.name}: inputs {self.inputs}; expected some of 'image', 'text', 'facts', 'features:NAME'."
            )
        if (NUMBERS in self.inputs) != bool(self.facts) or not set(self.fits_to) <= set(self.inputs):
            raise ModelError(
                f"model {self.name}: inputs {self.inputs}, facts {self.facts}, fits to {self.fits_to}; expected names "
                "of facts with the input 'facts' only, and a model that fits to its inputs only."
            )

    @property
    def feature_columns(self) -> tuple[str, ...]:
        """Columns of the patch table with the features that the model reads."""
        return tuple("features_" + name.removeprefix(FEATURES) for name in self.inputs if name.startswith(FEATURES))

    def record(self) -> dict[str, Any]:
        """Stored with the predictions: enough to vote, draw maps and show the notice without the model."""
        return {
            "name": self.name,
            "version": self.version,
            "fingerprint": self.fingerprint,
            "class_names": list(self.class_names),
            "colors": list(self.colors),
            "background": list(self.background),
            "notice": self.notice,
            **({} if self.prior is None else {"prior": list(self.prior), "balanced": self.balanced}),
            **({} if not self.axes else {"axes": [[axis.name, axis.title, list(axis.options)] for axis in self.axes]}),
            **({} if not self.concepts_set else {"concepts_set": dict(self.concepts_set)}),
            **({} if self.vote is None else {"vote": dict(self.vote)}),
        }


Columns = Mapping[str, npt.NDArray[np.floating]]


@runtime_checkable
class PatchModel(Protocol):
    """A model of patches. Any object with these two members can be given to `wsikit.predict` and `wsikit.run`.

    A row of its output depends only on the patch of this row, never on other patches of the batch.
    """

    @property
    def info(self) -> ModelInfo: ...

    @property
    def predict(self) -> Callable[..., Columns]:
        """A method that classifies B patches.

        It is called with one keyword per type of input in `info.inputs`: `images`, uint8 (B, P, P, 3) RGB at
        `info.mpp`; `captions`, a list of B str or None; `features`, float32 (B, D), the feature columns concatenated;
        for the input "facts" two keywords: `facts`, float32 (B, F), in the order of `info.facts`, NaN where not
        measured, and `uncertainty`, float32 (B, F), the half-widths of their intervals, 0 where exact; and,
        where `info.field_um` is set, `around`, float32 (B, F), means of the facts in the field around each patch.

        Returns
        -------
        One float array per entry of `info.columns`: (B, C) or (B,); NaN where it is not defined.
        """


@runtime_checkable
class FitsToSlide(Protocol):
    """A model whose predictions depend on the slide: it is fitted to the slide first. Not fitted, it predicts as for a
    patch whose slide is not known."""

    @property
    def fit(self) -> Callable[..., PatchModel]:
        """A method that gives the model for one slide; a row of its output depends on the row and the slide only.

        It is called with one keyword per entry of `info.fits_to`: `images`, a sample of the slide's patches, or
        `features`, all rows, as for `predict`; for "facts" `facts` and `uncertainty`, all rows.
        """


@runtime_checkable
class Finishes(Protocol):
    """A model with columns that depend on the predictions of all patches of the slide (`info.whole_slide`). In the
    output of `predict` these columns are of each patch by itself."""

    def finish(self, columns: Columns, centres_um: npt.NDArray[np.floating]) -> Mapping[str, npt.NDArray[np.floating]]:
        """The columns of `info.whole_slide` from the other columns of all N patches, and their centres (N, 2) in µm."""


@runtime_checkable
class SetsConcepts(Protocol):
    """A model that predicts through concepts (`info.axes`), which can be set by hand: an intervention (Koh et al. 2020,
    "Concept bottleneck models")."""

    def with_concepts(self, options: Mapping[str, str]) -> PatchModel:
        """The model that takes these options, by axis, for given in every patch. Its `info.concepts_set` states them.
        RequestError for an axis or option that it does not have."""


@runtime_checkable
class ImageFeatureExtractor(Protocol):
    """A model whose image encoder can be used alone, to find similar patches."""

    def image_features(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Features (B, D) of patches, uint8 (B, P, P, 3)."""


class ModelKind(Protocol):
    """The interface of an entry point of the group `wsikit.models`; usually the model's class."""

    def describe(self, folder: Path | None) -> ModelInfo:
        """Description of the model in `folder`, without loading weights. `folder` is None if the model was given by the
        plug-in's name only."""

    def load(self, folder: Path | None, *, device: Literal["auto", "cpu", "cuda"]) -> PatchModel:
        """The model, ready to predict."""
