"""How a slide's patches are put together: every number that can change the result, with its bounds. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

from wsikit.errors import RequestError

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
"""What a patch's voice may be multiplied with, beside its share of the voting classes."""


@dataclass(frozen=True)
class ThresholdRule:
    """ "The slide is `target` if at least `min_frac` of its weight lies in patches with p(target) ≥ `t`"."""

    target: str | int
    """Code of the class, or its index among the voting classes."""
    t: float = 0.5
    """Probability from which on a patch counts as the class, above 0 to 1."""
    min_frac: float = 0.05
    """Share of the voting weight, above 0 to 1. INPC asks for more than 5 % of differentiating neuroblasts."""

    def __post_init__(self) -> None:
        for name in ("t", "min_frac"):
            value = getattr(self, name)
            if not 0 < value <= 1:
                raise RequestError(f"rule for {self.target}: {name} of {value} must lie above 0 and not above 1")


@dataclass(frozen=True)
class VoteRule:
    """From patch probabilities and weights to a slide's result; see `wsikit.voting.vote`."""

    method: str = "mean"
    """One of `METHODS`."""
    min_patches: float = 20
    """Effective patches below which the vote abstains."""
    min_margin: float = 0.1
    """Difference of the two classes ahead below which the vote abstains, 0 to 1."""
    max_ood: float = 0.5
    """Share of the voting weight unlike the training patches above which the vote abstains, 0 to 1."""
    temperature: float = 1.0
    """Softens the patches' probabilities first, or below 1 sharpens them, > 0; as fitted on validation slides."""
    kappa: float = 1.0
    """confidence: exponent of the certainty, > 0."""
    alpha: float = 10.0
    """soft_clinical: weight of the first key tissue (neuropil)."""
    beta: float = 10.0
    """soft_clinical: weight of the second key tissue (Schwannian stroma)."""
    gamma: float = 0.1
    """soft_clinical: weight of a patch whose likeliest tissue is no key tissue, ≥ 0."""
    double_softmax: bool = False
    """soft_clinical: put the tissue probabilities through a softmax once more, as the published code does."""
    k: int = 50
    """topk: patches per class, ≥ 1. Below some 1.5 × `min_patches` their weights seldom let the vote speak."""
    quantile: float = 0.9
    """quantile: which one of each class's probabilities, 0 to 1."""
    rule: ThresholdRule | None = None
    """threshold: what is asked."""
    resamples: int = 1000
    """Draws of the block bootstrap; 0: no interval."""
    level: float = 0.95
    """Of the interval."""
    block_um: float = 500.0
    """Side of the squares that are drawn together, µm; doubled where a slide has more than 4096 of them."""
    seed: int = 0
    """Of the draws."""
    second_mm2: float = 0.5
    """Least area of a second subtype's region, mm²."""

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise RequestError(f"voting method {self.method!r} is not known: use one of {', '.join(METHODS)}")
        at_least_0 = ("min_patches", "alpha", "beta", "gamma", "resamples", "second_mm2", "seed")
        _bounds(self, at_least_0, lambda value: value >= 0, "0 or more")
        _bounds(self, ("kappa", "block_um", "temperature"), lambda value: value > 0, "more than 0")
        _bounds(self, ("min_margin", "max_ood", "quantile"), lambda value: value <= 1 and value >= 0, "between 0 and 1")
        _bounds(self, ("level",), lambda value: 0 < value < 1, "above 0 and below 1")
        _bounds(self, ("k",), lambda value: value >= 1, "1 or more")
        if self.method == "threshold" and self.rule is None:
            raise RequestError("voting method threshold needs a rule: which class, from which probability and share on")

    def to_json(self) -> dict[str, Any]:
        """Plain values; `from_json` reads them back."""
        return asdict(self)


@dataclass(frozen=True)
class VoteParameters(VoteRule):
    """A `VoteRule`, and what happens to a slide's patches before it; see `wsikit.voting.vote_slide`."""

    smooth: str = "none"
    """One of `SMOOTHINGS`: over the neighbours on the patch grid, before anything else."""
    coupling: float = 0.5
    """mrf: how much one neighbour of a class speaks for it, in units of log odds, ≥ 0."""
    weights: tuple[str, ...] = field(default=("tissue", "readable", "quality", "roi", "overlap"))
    """Of `WEIGHTS`; they multiply, each as far as it is known for the slide."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "weights", tuple(self.weights))
        if self.smooth not in SMOOTHINGS:
            raise RequestError(f"smoothing {self.smooth!r} is not known: use one of {', '.join(SMOOTHINGS)}")
        _bounds(self, ("coupling",), lambda value: value >= 0, "0 or more")
        unknown = sorted(set(self.weights) - set(WEIGHTS))
        if unknown or len(set(self.weights)) != len(self.weights):
            raise RequestError(f"weights {list(self.weights)}: use each of {', '.join(WEIGHTS)} once at most")
        if self.method == "soft_clinical" and "key_tissue" in self.weights:
            raise RequestError("soft_clinical weighs by key tissue already: leave key_tissue out of the weights")

    def to_json(self) -> dict[str, Any]:
        """Plain values; `from_json` reads them back."""
        return {**asdict(self), "weights": list(self.weights)}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> VoteParameters:
        """The inverse of `to_json`; what `record` does not say, as one of an older version may, is as by default."""
        known = {key: value for key, value in record.items() if key in {item.name for item in fields(cls)}}
        if known.get("rule") is not None:
            known["rule"] = ThresholdRule(**known["rule"])
        return cls(**known)


def _bounds(rule: VoteRule, names: tuple[str, ...], fits: Callable[[float], bool], words: str) -> None:
    for name in names:
        value = getattr(rule, name)
        if not (math.isfinite(value) and fits(value)):
            raise RequestError(f"{name} of {value}: it must be {words}")
