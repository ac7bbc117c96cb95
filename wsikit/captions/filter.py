"""Is this text a caption? Loops, refusals, torn ends and texts about something else are named; label words go out.

Text in, words out: no pixels, no model. What is refused here is kept by the caller, but never shown to a classifier.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from wsikit.captions.parser import parse
from wsikit.scrub import scrub

SAFETY_REVISION = 1
"""Raised when the same text gets another verdict: it stands in the receipts."""

MOST_WORDS = 400
"""More than three times what 256 tokens hold: whoever talks on like that does not describe a patch."""

_LONGEST_LOOP = 12  # words; longer repeats show in the share of distinct trigrams
_REPEATS = 4  # the same words so many times in a row
_LEAST_FOR_VARIETY = 30  # trigrams; on fewer their variety says nothing
_LEAST_VARIETY = 0.5  # distinct of all trigrams; measured captions have 0.97 and more
_FOREIGN = 0.1  # share of letters that are neither Latin nor Greek (µ, α, β)

_WORD = re.compile(r"[^\W_]+(?:[-'’][^\W_]+)*|[^\w\s]", re.UNICODE)
_SENTENCE_END = re.compile(r"[.!?…][\"')\]]*(?=\s|$)")
_REFUSAL = re.compile(
    r"\bI(?:'|’| a)m (?:sorry|unable|not able|an AI)\b|\bsorry,|\bI (?:can(?:not|'t|’t| not)|do not|don't|am unable)\b"
    r"|\bas an? (?:AI|language model|artificial)\b|\bunable to (?:provide|analy|view|see|assist|identify|process)"
    r"|\bno image (?:was|is|has been)\b|\bplease (?:provide|upload|share|consult)\b|\bI can help you\b",
    re.IGNORECASE,
)
_TORN = re.compile(
    r"(?:[,;:(\[/–—-]|\b(?:a|an|the|and|or|of|with|without|in|on|at|to|by|from|for|is|are|no|which|that|as))$",
    re.IGNORECASE,
)
# Words of histology beyond the vocabulary of `reading`: a caption about breast or lymph node is a caption too.
_HISTOLOGY = re.compile(
    r"\b(?:tissue|cells?|cellular\w*|nucle(?:us|i|ar|ol\w*)|cytoplasm\w*|chromatin|strom\w+|epitheli\w+|gland\w*|"
    r"tumou?r\w*|neoplas\w+|carcinom\w*|neuroblast\w*|blastema\w*|fibro\w*|fibrous|collagen\w*|muscle|vessel\w*|"
    r"capillar\w+|inflammat\w+|plasma cells?|macrophag\w+|histiocyt\w+|oedema\w*|edema\w*|sept(?:a|um)|"
    r"ducts?|ductal|lobul\w+|mucin\w*|keratin\w*|glass|background|stain\w*|pigment\w*|artefacts?|artifacts?|"
    r"fold\w*|tear\w*|nodul\w+|sheets?|nests?|trabecul\w+|cysts?|cystic|hyalin\w*|apopto\w+|pyknotic)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A captioner's text, judged."""

    text: str
    """What a classifier may read: tidy, whole sentences, without label words; empty if there is a failure."""
    failure: str = ""
    """Why it is no caption, in a few words; empty if it is one."""
    scrubbed: bool = False
    """Whether words were taken out that name the diagnosis."""


def judge(raw: str) -> Verdict:
    """Judge what a captioner wrote.

    A last sentence that breaks off is left out if a whole one stands before it. Equal texts get equal verdicts, and
    the text of a verdict, judged again, stays as it is.

    Examples
    --------
    >>> judge("Abundant neuropil; poorly differentiated neuroblastoma. The nuclei are")
    Verdict(text='Abundant neuropil; neuroblastoma.', failure='', scrubbed=True)
    >>> judge("I'm sorry, I cannot help with medical images.").failure
    'refusal'
    """
    text, scrubbed = " ".join(raw.split()), False
    while True:
        failure = fault(text)
        if not failure and not is_whole(text):
            text = whole_sentences(text)
            failure = fault(text) if is_whole(text) else "cut off"
        bare = scrub(text)
        if failure or bare == text:
            return Verdict("" if failure else text, failure, scrubbed)
        text, scrubbed = bare, True  # what is left is judged again: "with a poorly differentiated" tears an end


def fault(text: str) -> str:
    """What is wrong with a text as a whole: empty, refusal, wrong script, loop, too long, not about tissue; or ""."""
    if not re.search(r"[^\W\d_]", text):
        return "empty"
    if _is_foreign(text):
        return "wrong script"
    if _REFUSAL.search(text):
        return "refusal"
    words = [word.lower() for word in _WORD.findall(text)]
    if _loops(words) or re.search(r"(\S)\1{9,}", text):
        return "loop"
    if len(words) > MOST_WORDS:
        return f"more than {MOST_WORDS} words"
    if not _HISTOLOGY.search(text) and not parse(text):
        return "no word about tissue"
    return ""


def is_whole(text: str) -> bool:
    """Whether a text ends as a sentence, or as a lone phrase, may end.

    "Nuclei with", "a few (" and "ganglion-" do not; nor does what follows a whole sentence without a stop of its own.
    """
    stripped = text.rstrip()
    if not stripped or _TORN.search(stripped):
        return False
    if stripped.count("(") > stripped.count(")") or stripped.count("[") > stripped.count("]"):
        return False
    return whole_sentences(stripped) in ("", stripped)


def whole_sentences(text: str) -> str:
    """The text up to the end of its last whole sentence; empty if there is none."""
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    return text[: ends[-1]] if ends else ""


def _is_foreign(text: str) -> bool:
    letters = [sign for sign in text if sign.isalpha()]
    # "micro sign" is Greek's µ under its own name
    known = sum(unicodedata.name(sign, "").startswith(("LATIN", "GREEK", "MICRO")) for sign in letters)
    return known < (1 - _FOREIGN) * len(letters)


def _loops(words: list[str]) -> bool:
    for length in range(1, _LONGEST_LOOP + 1):
        run = 0
        for place in range(length, len(words)):
            run = run + 1 if words[place] == words[place - length] else 0
            # a run of n repeats has (n - 1) · length words equal to those `length` before them
            if run >= (_REPEATS - 1) * length:
                return True
    trigrams = [tuple(words[place : place + 3]) for place in range(len(words) - 2)]
    return len(trigrams) >= _LEAST_FOR_VARIETY and len(set(trigrams)) < _LEAST_VARIETY * len(trigrams)
