"""Voting parameters fitted on validation slides: a JSON file that `wsikit vote --parameters` reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from wsikit.errors import RequestError
from wsikit.voting.inpc import Rules
from wsikit.voting.parameters import VoteParameters

FORMAT = "wsikit voting parameters, 1"


@dataclass(frozen=True)
class FittedVote:
    """Fitted parameters and the data they were fitted on."""

    parameters: VoteParameters
    classes: tuple[str, ...]
    """Codes of the voting classes."""
    model: str
    """Fingerprint of the model whose probabilities they were fitted on."""
    slides: int
    """Number of validation slides."""
    patients: tuple[str, ...]
    """Hashes of their patients."""
    split_sha256: str
    """SHA-256 of the split file; empty where there was none."""
    fold: int
    scores: Mapping[str, float]
    """Mean Brier score on these slides, lower is better: "fitted", "as by default" (default parameters) and
    "prevalence" (the mean class frequencies, predicted for every slide)."""
    abstains: str
    """How min_margin was chosen, in words."""
    rules: Rules | None = None
    """INPC rules with fitted limits of the proxies; None where the classes are not those of INPC."""
    measured: Mapping[str, float] = field(default_factory=dict)
    """Errors on validation patients that were not fitted on (cross-fitting), by name."""

    def lines(self) -> list[str]:
        """What was learned, in words: thresholds, the interval with the model's error, and what was measured."""
        learned = self.parameters.learned
        if learned is None:
            return []
        pairs = zip(self.classes, learned.thresholds)
        fitted = ", ".join(f"{code} {value:.3f}" for code, value in pairs)
        level = self.parameters.interval_level
        why = learned.why_not(level)
        spread = (level * (1 - level) / (learned.patients + 2)) ** 0.5
        found = [
            f"threshold: {fitted or 'not fitted, too few slides of a class'}",
            f"interval: none, {why}"
            if why
            else f"interval: {100 * level:g} %, learned from {learned.patients} validation patients; with other ones "
            f"its coverage would vary by ±{100 * spread:.0f} points",
        ]
        if self.measured:
            found.append("cross-fitted: " + ", ".join(f"{name} {value:.3f}" for name, value in self.measured.items()))
        return found

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "format": FORMAT,
            **{key: value for key, value in vars(self).items() if key not in ("parameters", "rules")},
            "classes": list(self.classes),
            "patients": list(self.patients),
            "scores": dict(self.scores),
            "measured": dict(self.measured),
            "parameters": self.parameters.to_json(),
            "rules": None if self.rules is None else asdict(self.rules),
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> FittedVote:
        """The inverse of `to_json`."""
        fields = {key: value for key, value in record.items() if key != "format"}
        fields["parameters"] = VoteParameters.from_json(record["parameters"])
        fields["classes"], fields["patients"] = tuple(record["classes"]), tuple(record["patients"])
        fields["rules"] = None if record["rules"] is None else Rules(**record["rules"])
        return cls(**fields)


def read_fitted(path: str | Path) -> FittedVote:
    """Read a file that `wsikit evaluate --fit-vote` wrote.

    Raises
    ------
    RequestError
        If there is no such file, or it does not hold voting parameters.
    """
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(record, dict) or record.get("format") != FORMAT:
            raise RequestError(f"{path}: not voting parameters; wsikit evaluate --fit-vote writes them.")
        return FittedVote.from_json(record)
    except FileNotFoundError:
        raise RequestError(f"{path}: no such file. wsikit evaluate --fit-vote writes one.") from None
    except (json.JSONDecodeError, UnicodeDecodeError, TypeError, KeyError) as error:
        raise RequestError(f"{path}: damaged voting parameters ({error}). Fit them again.") from error
