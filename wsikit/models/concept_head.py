"""Classes through concepts, `ConceptHead`: scores of the options of each axis, then one linear layer.

| scores of | arrays in addition to weight (S, C), bias (C,), centre (S,), set_to (S, S) |
|---|---|
| facts | knots (S,) |
| learned | mean, scale (D,); concept_weight (D, S), concept_bias (S,) |
| text | places (S, E), logit_scale (1,) |
| attention | attention.* of `wsikit.models.concept_attention` |

A patch's logits are a sum over the axes, so each axis has a contribution. A concept that is set by hand replaces the
scores of its axis by those of the option (an intervention, Koh et al. 2020, arXiv 2007.04612).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.encoders.protocol import PatchEncoder
from wsikit.errors import ModelError, RequestError
from wsikit.models.concept_config import ConceptHeadConfig, info_of_concepts
from wsikit.models.concept_criteria import UNKNOWN
from wsikit.models.concept_scores import scores_of_facts, softmax_by_axis
from wsikit.models.concept_setting import (
    CONCEPT_COLUMN,
    CONTRIBUTION_COLUMN,
    check_settings,
    info_with_concepts,
)
from wsikit.models.head import softmax
from wsikit.models.ood import OodDetector
from wsikit.models.protocol import OOD_SCORE, PROBABILITY, ModelInfo
from wsikit.models.text_scores import similarities

Floats = npt.NDArray[np.float64]
Array = npt.NDArray[Any]
Columns = dict[str, npt.NDArray[np.float32]]
Chosen = Mapping[str, str | Sequence[str | None]]
"""Option by axis: of all patches, or one per patch, None where it is not set."""

_AT_ONCE = 256
"""Patches whose tokens are attended to at a time."""

ATTENTION = "attention."
"""Prefix of the arrays of the attention."""


class ConceptHead:
    """A `wsikit.models.protocol.PatchModel` that predicts through concepts.

    Parameters
    ----------
    config
    arrays
        The weights; see the module.
    load_encoder
        Gives the encoder whose tokens are read from pixels; only for a model with `config.token_side`.
    ood
        Detector of out-of-distribution patches by their features.
    fingerprint
        sha256 of the model's files; empty for a model that was never saved.

    Raises
    ------
    ModelError
        If the arrays are not those of the configuration.

    Examples
    --------
    >>> from wsikit.models.concept_criteria import read_criteria
    >>> criteria = read_criteria("inpc").only(["neuropil", "differentiation"])
    >>> config = ConceptHeadConfig(
    ...     name="toy", version="1", classes=("UD", "PD"), class_names=("UD", "PD"), colors=("#000000", "#ffffff"),
    ...     mpp=0.5, patch_px=224, stain="H&E", notice="toy", mode="bottleneck", scores="facts", criteria=criteria,
    ...     labels="none", temperature=1.0,
    ... )
    >>> weight = np.zeros((7, 2))
    >>> weight[0] = 2, -2  # no neuropil speaks for UD
    >>> head = ConceptHead(config, {
    ...     "weight": weight, "bias": np.zeros(2), "centre": np.full(7, 1 / 4), "set_to": np.eye(7),
    ...     "knots": np.array([0.05, 0.15, 0.25, 0.5, 0.0, 0.03, 0.2]),
    ... })
    >>> facts = np.array([[0.5, 0.0]], np.float32)  # abundant neuropil
    >>> head.predict(facts=facts)["probability"].round(2).tolist()
    [[0.5, 0.5]]
    >>> head.predict(facts=facts, set={"neuropil": "absent"})["probability"].argmax(axis=1).tolist()
    [0]
    """

    def __init__(
        self,
        config: ConceptHeadConfig,
        arrays: Mapping[str, Array],
        *,
        load_encoder: Callable[[], PatchEncoder] | None = None,
        ood: OodDetector | None = None,
        fingerprint: str = "",
    ) -> None:
        self.config, self.ood = config, ood
        self.arrays = {name: np.asarray(values) for name, values in arrays.items()}
        _check(config, self.arrays)
        self._wide = {
            name: np.asarray(self.arrays[name], np.float64) for name in ("weight", "bias", "centre", "set_to")
        }
        self._info = info_of_concepts(config, fingerprint, has_ood=ood is not None)
        self._load_encoder = load_encoder
        self._encoder: Any = None  # both are made at first use
        self._attention: Any = None

    @property
    def info(self) -> ModelInfo:
        """Description of the model; of one with concepts set by hand, `concepts_set` and the notice state them."""
        return self._info

    def with_concepts(self, options: Mapping[str, str]) -> ConceptHead:
        """The head that takes these options for given in every patch; see `wsikit.models.protocol.SetsConcepts`."""
        chosen = dict(self._info.concepts_set) | dict(check_settings(self._info.axes, options, self.config.name))
        plain = info_of_concepts(self.config, self._info.fingerprint, has_ood=self.ood is not None)
        bound = copy.copy(self)
        bound._info = info_with_concepts(plain, chosen)
        return bound

    def predict(
        self,
        *,
        features: npt.NDArray[np.floating] | None = None,
        facts: npt.NDArray[np.floating] | None = None,
        uncertainty: npt.NDArray[np.floating] | None = None,
        images: npt.NDArray[np.uint8] | None = None,
        set: Chosen | None = None,  # noqa: A002, as in --set
    ) -> Columns:
        """Classify patches.

        Parameters
        ----------
        features, facts, uncertainty, images
            As `PatchModel.predict` describes: those of `info.inputs`.
        set
            Options by axis that are taken for given: one for all patches, or one per patch (None: not set).

        Returns
        -------
        dict of float32 arrays
            `probability` (B, C), calibrated; per axis `concept_<axis>` (B, O), probabilities of its options, and
            `contribution_<axis>` (B, C): what it adds to the calibrated logits, compared with the mean training patch
            (`base`). Rows whose features are not finite are NaN.

        Raises
        ------
        ModelError
            If an input is missing, or of another width.
        RequestError
            If an axis or option does not exist.
        """
        inputs = self._inputs(features, facts, images)
        options = self._options(len(inputs), set or {})
        scores = np.full((len(inputs), self.config.criteria.n_options), np.nan)
        rows = (
            np.ones(len(inputs), bool)
            if facts is not None
            else np.isfinite(inputs).all(axis=tuple(range(1, inputs.ndim)))
        )
        if rows.any():
            scores[rows] = self._scores(inputs[rows], None if uncertainty is None else np.asarray(uncertainty)[rows])
        found = self.columns_of(scores, options)
        if self.ood is not None:
            score = np.full(len(inputs), np.nan, np.float32)
            if rows.any():
                score[rows] = self.ood.of(np.asarray(inputs[rows], np.float32))
            found[OOD_SCORE] = score
        return found

    def scores(self, inputs: npt.NDArray[np.floating], uncertainty: npt.NDArray[np.floating] | None = None) -> Floats:
        """Scores of the options (N, S) from facts, features (N, D) or tokens (N, T, D), before any is set."""
        return self._scores(inputs, uncertainty)

    def columns_of(self, scores: Floats, options: npt.NDArray[np.integer] | None = None) -> Columns:
        """The columns of `predict` from scores (N, S); `options` (N, K) are indices of options that are set, below 0
        where none is."""
        criteria, columns = self.config.criteria, self.config.criteria.columns
        shown = softmax_by_axis(scores, columns) if self.config.mode == "attend" else scores.copy()
        if options is not None:
            scores = set_scores(scores, options, self._wide["set_to"], columns)
            shown = set_scores(shown, options, np.eye(criteria.n_options), columns)
        temperature = self.config.temperature
        logits = (scores @ self._wide["weight"] + self._wide["bias"]) / temperature
        found: Columns = {PROBABILITY: softmax(logits).astype(np.float32)}
        for key, of_axis in zip(criteria.axes, columns, strict=True):
            apart = scores[:, of_axis] - self._wide["centre"][of_axis]
            found[CONCEPT_COLUMN + key] = shown[:, of_axis].astype(np.float32)
            found[CONTRIBUTION_COLUMN + key] = (apart @ self._wide["weight"][of_axis] / temperature).astype(np.float32)
        return found

    @property
    def base(self) -> Floats:
        """Calibrated logits of the mean training patch (C,): with the contributions of all axes, those of a patch."""
        base: Floats = self._wide["bias"] + self._wide["centre"] @ self._wide["weight"]
        return base / self.config.temperature

    def _inputs(self, features: Array | None, facts: Array | None, images: Array | None) -> Array:
        config = self.config
        if config.scores == "facts":
            wanted, given = (len(config.criteria.facts),), facts
        elif config.token_side is not None:
            return self._tokens(images)
        else:
            assert config.encoder is not None
            wanted, given = (config.encoder.width,), features
        if given is None or given.ndim != 2 or given.shape[1:] != wanted:
            what, found = ", ".join(config.inputs), None if given is None else given.shape
            raise ModelError(f"model {config.name}: takes {what}, (B, {wanted[0]}), got {found}.")
        return np.asarray(given, np.float32)

    def _tokens(self, images: Array | None) -> Array:
        config = self.config
        if images is None or self._load_encoder is None or config.encoder is None or config.token_side is None:
            raise ModelError(f"model {config.name}: takes images, uint8 (B, P, P, 3), and the encoder of its tokens.")
        if self._encoder is None:
            from wsikit.encoders.tokens import TokenVectors

            self._encoder = TokenVectors(self._load_encoder(), config.token_side)
        if not len(images):
            return np.empty((0, config.token_side**2, config.encoder.width // config.token_side**2), np.float32)
        flat: Array = self._encoder.encode(images)
        return flat.reshape(len(images), config.token_side**2, -1)

    def _scores(self, inputs: Array, uncertainty: Array | None) -> Floats:
        arrays, config = self.arrays, self.config
        columns = config.criteria.columns
        if config.scores == "facts":
            spread = np.zeros_like(inputs) if uncertainty is None else uncertainty
            return scores_of_facts(inputs, spread, config.criteria, arrays["knots"], arrays["centre"])
        if config.scores == "learned":
            z = (np.asarray(inputs, np.float64) - arrays["mean"]) / arrays["scale"]
            return softmax_by_axis(z @ arrays["concept_weight"] + arrays["concept_bias"], columns)
        if config.scores == "text":
            found = similarities(inputs, arrays["places"]) * float(arrays["logit_scale"][0])
            return softmax_by_axis(found, columns)
        return self._attended(inputs)

    def _attended(self, inputs: Array) -> Floats:
        import torch

        if self._attention is None:
            from wsikit.models.concept_kind import attention_of

            self._attention = attention_of(self.config, self.arrays)
        tokens = torch.from_numpy(np.ascontiguousarray(inputs, np.float32))
        tokens = tokens[:, None] if tokens.ndim == 2 else tokens
        with torch.inference_mode():
            starts = range(0, len(tokens), _AT_ONCE)
            parts = [self._attention(tokens[first : first + _AT_ONCE]).double().numpy() for first in starts]
        return np.concatenate(parts)

    def _options(self, n: int, given: Chosen) -> npt.NDArray[np.int64] | None:
        """(N, K) indices of options that are set, or None."""
        chosen: dict[str, Any] = {**dict(self._info.concepts_set), **given}
        if not chosen:
            return None
        axes = self.config.criteria.axes
        options = np.full((n, len(axes)), UNKNOWN, np.int64)
        for name, wanted in chosen.items():
            values = [wanted] * n if isinstance(wanted, str) else list(wanted)
            for option in {wanted} if isinstance(wanted, str) else set(values) - {None}:
                check_settings(self._info.axes, {name: option}, self.config.name)
            if len(values) != n:
                raise RequestError(f"model {self.config.name}: {len(values)} options of {name} for {n} patches.")
            places = {key: index for index, key in enumerate(axes[name].options)}
            options[:, list(axes).index(name)] = [UNKNOWN if value is None else places[value] for value in values]
        return options


def set_scores(scores: Floats, options: npt.NDArray[np.integer], set_to: Floats, columns: Sequence[slice]) -> Floats:
    """Scores (N, S) with those of the axes replaced for which `options` (N, K) is 0 or more: by the rows of `set_to`
    (S, S), one per option.

    >>> set_scores(np.array([[0.2, 0.8]]), np.array([[0]]), np.eye(2), [slice(0, 2)]).tolist()
    [[1.0, 0.0]]
    """
    found = scores.copy()
    for axis, of_axis in enumerate(columns):
        rows = np.flatnonzero(options[:, axis] >= 0)
        found[rows, of_axis] = set_to[of_axis, of_axis][options[rows, axis]]
    return found


def _check(config: ConceptHeadConfig, arrays: Mapping[str, Array]) -> None:
    """ModelError if arrays are missing or of another shape."""
    s, c = config.criteria.n_options, len(config.classes)
    wanted: dict[str, tuple[int, ...]] = {"weight": (s, c), "bias": (c,), "centre": (s,), "set_to": (s, s)}
    if config.scores == "facts":
        wanted["knots"] = (s,)
    elif config.scores == "learned":
        d = config.encoder.width if config.encoder is not None else 0
        wanted |= {"mean": (d,), "scale": (d,), "concept_weight": (d, s), "concept_bias": (s,)}
    elif config.scores == "text":
        d = config.encoder.width if config.encoder is not None else 0
        wanted |= {"places": (s, d), "logit_scale": (1,)}
    unknown = sorted(
        name for name in arrays.keys() - wanted.keys() if config.scores != "attention" or not name.startswith(ATTENTION)
    )
    if unknown:
        raise ModelError(
            f"model {config.name}: {len(unknown)} arrays unknown to scores of {config.scores}, such as {unknown[0]}. "
            "Copy the model's folder again."
        )
    for name, shape in wanted.items():
        found = arrays[name].shape if name in arrays else None
        if found != shape:
            raise ModelError(
                f"model {config.name}: {name} is {found or 'missing'}, expected {shape} for {s} options of "
                f"{len(config.criteria.axes)} axes and {c} classes. Copy the model's folder again."
            )
