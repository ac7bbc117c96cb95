"""Parameters of the vote: every number that can change the result, with its bounds. No I/O."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, get_args

from wsikit.errors import RequestError
from wsikit.voting.learned import LearnedVote, canonical
from wsikit.voting.prior import AUTO, parse_prior

Method = Literal[
    "mean",
    "hard",
    "log",
    "soft_clinical",
    "confidence",
    "gate",
    "topk",
    "quantile",
    "threshold",
    "noisy_or",
    "attention",
]
METHODS: tuple[str, ...] = get_args(Method)

Smoothing = Literal["none", "median", "mrf"]
SMOOTHINGS: tuple[str, ...] = get_args(Smoothing)

WEIGHTS = ("tissue", "readable", "quality", "roi", "overlap", "key_tissue")
"""Factors that a patch's weight may be multiplied with, in addition to 1 − p(background)."""

OLD_NAMES = {"max_novel": "max_ood"}
"""Names in parameters that older versions of wsikit stored, and what they are called now."""

Pool = Literal["mean", "log", "ordinal"]
POOLS: tuple[str, ...] = get_args(Pool)

_ADDED: dict[str, Any] = {"interval_level": 0.9, "learned": None, "prior": AUTO, "pool": "mean"}
"""Settings that older versions lack, with their defaults, which are not written."""
_OF_METHOD: Mapping[str, tuple[str, ...]] = {
    "confidence": ("kappa",),
    "soft_clinical": ("alpha", "beta", "gamma", "double_softmax"),
    "topk": ("k",),
    "quantile": ("quantile",),
    "threshold": ("rule",),
    "attention": ("pool",),
}
"""Settings that one method alone uses."""

NEEDS_FIT = ("soft_clinical", "confidence", "gate", "attention", "topk", "quantile", "threshold", "noisy_or")
"""Methods whose score is not an estimate of the share: the value that calls a class must be fitted."""


@dataclass(frozen=True)
class ThresholdRule:
    """ "The slide is `target` if at least `min_frac` of its weight lies in patches with p(target) ≥ `t`"."""

    target: str | int
    """Code of the class, or its index among the voting classes."""
    t: float = 0.5
    """Probability from which on a patch counts as the class, above 0 to 1."""
    min_frac: float = 0.05
    """Required share of the voting weight, above 0 to 1. INPC: more than 5 % differentiating neuroblasts."""

    def __post_init__(self) -> None:
        for name in ("t", "min_frac"):
            value = getattr(self, name)
            if not 0 < value <= 1:
                raise RequestError(f"rule for {self.target}: {name} of {value} must lie above 0 and not above 1")


@dataclass(frozen=True)
class VoteRule:
    """From patch probabilities and weights to a slide's result; see `wsikit.voting.vote`.

    >>> VoteRule("topk", k=100).k
    100
    """

    method: str = "mean"
    """One of `METHODS`."""
    min_patches: float = 20
    """Effective sample size below which the vote abstains."""
    min_margin: float = 0.1
    """Difference of the two most probable classes below which the vote abstains, 0 to 1."""
    max_ood: float = 0.5
    """Fraction of out-of-distribution tissue (of the voting weight) above which the vote abstains, 0 to 1."""
    temperature: float = 1.0
    """Temperature scaling of the patch probabilities, > 0: above 1 softens, below 1 sharpens."""
    kappa: float = 1.0
    """confidence: exponent of the certainty, > 0."""
    alpha: float = 10.0
    """soft_clinical: weight of the first key tissue (neuropil)."""
    beta: float = 10.0
    """soft_clinical: weight of the second key tissue (Schwannian stroma)."""
    gamma: float = 0.1
    """soft_clinical: weight of a patch whose most probable tissue is not a key tissue, ≥ 0."""
    double_softmax: bool = False
    """soft_clinical: apply a second softmax to the tissue probabilities, as the published code does."""
    k: int = 50
    """topk: patches per class, ≥ 1. Below about 1.5 × `min_patches` most votes abstain: too few effective patches."""
    quantile: float = 0.9
    """quantile: which quantile of each class's probabilities, 0 to 1."""
    rule: ThresholdRule | None = None
    """threshold: the rule."""
    pool: str = "mean"
    """attention: what is averaged, one of `POOLS`: probabilities; their logarithms (a product of experts), or the log
    odds of "higher than class k" of ordered classes. The last two are exact for models whose slide logits are the
    attention-weighted sum of those of the patches."""
    resamples: int = 1000
    """Draws of the block bootstrap; 0: no within-slide sampling interval."""
    level: float = 0.95
    """Confidence level of the within-slide sampling interval."""
    block_um: float = 500.0
    """Side of the bootstrap blocks, µm; doubled where a slide has more than 4096 blocks."""
    seed: int = 0
    """Seed of the bootstrap."""
    second_mm2: float = 0.5
    """Minimum area of a second subtype's region, mm²."""
    interval_level: float = 0.9
    """Level of the interval with the model's error, which needs `learned`."""
    learned: LearnedVote | None = None
    """Thresholds and errors that were learned from validation patients with these settings."""

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise RequestError(f"voting method {self.method!r} is not known: use one of {', '.join(METHODS)}")
        at_least_0 = ("min_patches", "alpha", "beta", "gamma", "resamples", "second_mm2", "seed")
        _bounds(self, at_least_0, lambda value: value >= 0, "0 or more")
        _bounds(self, ("kappa", "block_um", "temperature"), lambda value: value > 0, "more than 0")
        _bounds(self, ("min_margin", "max_ood", "quantile"), lambda value: value <= 1 and value >= 0, "between 0 and 1")
        _bounds(self, ("level", "interval_level"), lambda value: 0 < value < 1, "above 0 and below 1")
        _bounds(self, ("k",), lambda value: value >= 1, "1 or more")
        if self.pool not in POOLS:
            raise RequestError(f"pool {self.pool!r} is not known: use one of {', '.join(POOLS)}")
        if self.method == "threshold" and self.rule is None:
            raise RequestError("voting method threshold needs a rule: the class, its probability and its share")

    def to_json(self) -> dict[str, Any]:
        """Plain values; `from_json` reads them back."""
        record = {
            **asdict(replace(self, learned=None)),
            "learned": None if self.learned is None else self.learned.to_json(),
        }
        # votes of before these settings existed have the same receipts
        return {name: value for name, value in record.items() if name not in _ADDED or value != _ADDED[name]}

    def score_settings(self) -> dict[str, Any]:
        """The settings that determine the score of a slide; what was learned with some holds for these alone."""
        names = ("method", "temperature", *_OF_METHOD.get(self.method, ()))
        found = {name: getattr(self, name) for name in names}
        return found | ({"rule": asdict(found["rule"])} if found.get("rule") is not None else {})

    def applicable(self) -> LearnedVote | None:
        """`learned`, if it was learned with the settings of this rule."""
        same = self.learned is not None and self.learned.settings == canonical(self.score_settings())
        return self.learned if same else None


@dataclass(frozen=True)
class VoteParameters(VoteRule):
    """A `VoteRule` with smoothing and weights, which are applied before it; see `wsikit.voting.vote_slide`.

    >>> VoteParameters(smooth="median", min_margin=0.2).min_margin
    0.2
    """

    smooth: str = "none"
    """One of `SMOOTHINGS`: over the neighbours on the patch grid, as the first step."""
    coupling: float = 0.5
    """mrf: influence of one neighbour, in log odds, ≥ 0."""
    weights: tuple[str, ...] = field(default=("tissue", "readable", "quality", "roi", "overlap"))
    """Any of `WEIGHTS`; those that are known for the slide are multiplied."""

    prior: str = AUTO
    """Class frequencies that the probabilities are corrected to, before all other steps: "auto" (those of the training
    patches, where the model records them and was trained with balanced class weights), "training", "balanced", or the
    frequency of each class, such as "IDC=0.2,benign=0.8"; see `wsikit.voting.prior`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_prior(self.prior)
        object.__setattr__(self, "weights", tuple(self.weights))
        if self.smooth not in SMOOTHINGS:
            raise RequestError(f"smoothing {self.smooth!r} is not known: use one of {', '.join(SMOOTHINGS)}")
        _bounds(self, ("coupling",), lambda value: value >= 0, "0 or more")
        unknown = sorted(set(self.weights) - set(WEIGHTS))
        if unknown or len(set(self.weights)) != len(self.weights):
            raise RequestError(f"weights {list(self.weights)}: use each of {', '.join(WEIGHTS)} at most once")
        if self.method == "soft_clinical" and "key_tissue" in self.weights:
            raise RequestError("soft_clinical already weights by key tissue: leave key_tissue out of the weights")

    def to_json(self) -> dict[str, Any]:
        """Plain values; `from_json` reads them back."""
        return {**super().to_json(), "weights": list(self.weights)}

    def score_settings(self) -> dict[str, Any]:
        """As of `VoteRule`, with smoothing and prior. Not weights: patches of a training set have none."""
        smoothing = {"smooth": self.smooth} | ({"coupling": self.coupling} if self.smooth == "mrf" else {})
        return {**super().score_settings(), **smoothing, "prior": self.prior}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> VoteParameters:
        """The inverse of `to_json`, also for older records; fields that `record` lacks get their default."""
        current = {OLD_NAMES.get(key, key): value for key, value in record.items()}
        known = {key: value for key, value in current.items() if key in {item.name for item in fields(cls)}}
        if known.get("rule") is not None:
            known["rule"] = ThresholdRule(**known["rule"])
        if known.get("learned") is not None:
            known["learned"] = LearnedVote.from_json(known["learned"])
        return cls(**known)


def parameters_for(method: str | None, of_model: Mapping[str, Any] | None) -> VoteParameters:
    """The parameters of a vote by `method`: those that the model is made for, where the method is theirs or None.

    >>> own = {"method": "attention", "pool": "log"}
    >>> [parameters_for(name, own).pool for name in (None, "attention")], parameters_for("hard", own).method
    (['log', 'log'], 'hard')
    """
    own = VoteParameters.from_json(of_model or {})
    return own if method in (None, own.method) else VoteParameters(str(method))


def _bounds(rule: VoteRule, names: tuple[str, ...], fits: Callable[[float], bool], words: str) -> None:
    for name in names:
        value = getattr(rule, name)
        if not (math.isfinite(value) and fits(value)):
            raise RequestError(f"{name} of {value}: it must be {words}")
