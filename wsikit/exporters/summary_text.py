"""The vote as text, the same on map and report: the called class with its probability, or why none is called."""

from __future__ import annotations

from dataclasses import dataclass

from wsikit.errors import RequestError
from wsikit.exporters.classmap import ClassMap
from wsikit.exporters.units import format_prob
from wsikit.voting.result import SlideResult, format_margin

RESEARCH_USE = "Research use only. Not for diagnosis."

MUTED_NOTE = "No subtype called: the colours of the classes are muted."
"""In the legends of maps whose vote abstained."""

REGIONS_NOTE = "Patches in the given regions only."
"""In the legends of maps of slides of which regions were analysed."""

OOD_UNKNOWN = "not known: the model has no detector"
"""In place of the share of out-of-distribution tissue."""

METHOD_WORDS = {
    "mean": "Mean probability",
    "hard": "Share of patches",
    "log": "Product of experts",
    "soft_clinical": "Clinically guided mean probability",
    "confidence": "Certainty-weighted probability",
    "gate": "Gate-weighted probability",
    "topk": "Mean of the most certain patches",
    "quantile": "Quantile of the probabilities",
    "threshold": "Share of patches over a threshold",
    "noisy_or": "Noisy-or of the patches",
    "attention": "Attention-weighted probability",
}
"""Name of a slide's score per class, by `SlideResult.method`."""


def method_words(method: str) -> str:
    """Name of a slide's score per class; for an unknown method its own name.

    >>> method_words("mean")
    'Mean probability'
    """
    return METHOD_WORDS.get(method, method)


@dataclass(frozen=True)
class Verdict:
    """One slide's result, ready to print."""

    headline: str
    """The subtype, or that none is called."""
    detail: str
    """Probability, margin and number of patches; or why no subtype is called."""
    called: bool


def class_title(class_map: ClassMap, index: int) -> str:
    """Name and code of a class: "Poorly differentiated (PD)". Background is shown without code, as it has no votes."""
    name, code = class_map.class_names[index], class_map.classes[index]
    title = name[:1].upper() + name[1:]
    return title if code in class_map.background or name.lower() == code.lower() else f"{title} ({code})"


def state(class_map: ClassMap, result: SlideResult | None, reason: str = "") -> Verdict:
    """A vote as text; without a vote, `reason` is given."""
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
    scores = f"{method_words(result.method)}: {_scores(class_map, result)}"
    if result.label is None:
        return Verdict("No subtype called", f"Abstained: {result.reason}. {scores} · {patches}", called=False)
    title = class_title(class_map, voting[result.label])
    detail = f"{scores} · margin {format_margin(result.margin)} · {patches}"
    if result.ood_fraction is None:  # a reader would take silence for tissue that the model knows
        detail += f" · out-of-distribution tissue {OOD_UNKNOWN}"
    return Verdict(f"Patch vote: {title}", detail, called=True)


def _scores(class_map: ClassMap, result: SlideResult) -> str:
    """Codes with their probabilities (no line break between them), the leading one first: "PD 0.47, D 0.35"."""
    order = sorted(range(len(result.probs)), key=lambda index: (index != result.leading, -result.probs[index]))
    codes = [class_map.classes[index] for index in class_map.voting]
    return ", ".join(f"{codes[index]}\N{NO-BREAK SPACE}{format_prob(result.probs[index])}" for index in order)
