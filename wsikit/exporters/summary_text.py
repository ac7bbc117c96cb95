"""The vote in words, the same on map and report: what is called, how sure, or why nothing is called."""

from __future__ import annotations

from dataclasses import dataclass

from wsikit.errors import RequestError
from wsikit.exporters.classmap import ClassMap
from wsikit.exporters.units import format_prob
from wsikit.voting.vote import SlideResult

RESEARCH_USE = "Research use only. Not for diagnosis."

METHOD_WORDS = {
    "mean": "Mean probability",
    "hard": "Share of patches",
    "log": "Product of experts",
    "soft_clinical": "Clinically guided mean probability",
    "confidence": "Certainty-weighted probability",
    "gate": "Gate-weighted probability",
    "topk": "Mean of the surest patches",
    "quantile": "Quantile of the probabilities",
    "threshold": "Share of patches over a threshold",
    "noisy_or": "Noisy-or of the patches",
    "attention": "Attention-weighted probability",
}
"""What a slide's score per class is, by `SlideResult.method`."""


def method_words(method: str) -> str:
    """What a slide's score per class is; a method that is not known here goes by its own name."""
    return METHOD_WORDS.get(method, method)


@dataclass(frozen=True)
class Verdict:
    """One slide's statement, ready to print."""

    headline: str
    """The subtype, or that none is called."""
    detail: str
    """Probability, margin and number of patches; or the reason for calling nothing."""
    called: bool


def class_title(class_map: ClassMap, index: int) -> str:
    """Name and code of a class: "Poorly differentiated (PD)". Background needs no code, nobody votes for it."""
    name, code = class_map.class_names[index], class_map.classes[index]
    title = name[:1].upper() + name[1:]
    return title if code in class_map.background or name.lower() == code.lower() else f"{title} ({code})"


def state(class_map: ClassMap, result: SlideResult | None, reason: str = "") -> Verdict:
    """Put a vote into words; without a vote, say `reason` in its place."""
    if result is None:
        why = reason or "no prediction was made"
        return Verdict("No subtype called", f"{why[:1].upper()}{why[1:].rstrip('.')}.", called=False)
    voting = class_map.voting
    if len(result.probs) != len(voting):
        raise RequestError(
            f"{class_map.slide_id}: a vote over {len(result.probs)} classes for a map of {len(voting)} voting classes"
        )
    if result.leading is None:
        return Verdict("No subtype called", f"Abstained: {result.reason}.", called=False)
    patches = f"{result.n_patches:,} voting patch{'es' if result.n_patches != 1 else ''}"
    standing = f"{method_words(result.method)}: {_standing(class_map, result)}"
    if result.label is None:
        return Verdict("No subtype called", f"Abstained: {result.reason}. {standing} · {patches}", called=False)
    title = class_title(class_map, voting[result.label])
    detail = f"{standing} · margin {format_prob(result.margin)} · {patches}"
    return Verdict(f"Patch vote: {title}", detail, called=True)


def _standing(class_map: ClassMap, result: SlideResult) -> str:
    """Codes with their probabilities, not to be torn apart, the leading one first: "PD 0.47, D 0.35, UD 0.18"."""
    order = sorted(range(len(result.probs)), key=lambda index: (index != result.leading, -result.probs[index]))
    codes = [class_map.classes[index] for index in class_map.voting]
    return ", ".join(f"{codes[index]}\N{NO-BREAK SPACE}{format_prob(result.probs[index])}" for index in order)
