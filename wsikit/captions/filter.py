"""Filter for the output of generative captioners: rejects loops, refusals, truncated and unrelated text; removes label
words.

Text in, text out: no pixels, no model. Rejected text is kept by the caller, but a classifier never reads it.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from wsikit.captions.parser import parse
from wsikit.scrub import scrub

SAFETY_REVISION = 1
"""Raise it when the same text gets another verdict. It is part of the receipts."""

MAX_WORDS = 400
"""Maximum length, more than three times that of 256 tokens: a longer text does not describe a patch."""

_LONGEST_LOOP = 12  # words; longer repeats are found by the share of distinct trigrams
_REPEATS = 4  # the same words this many times in a row
_MIN_TRIGRAMS = 30  # the share of distinct ones is not meaningful for fewer
_MIN_DISTINCT = 0.5  # share of distinct trigrams; measured captions have 0.97 and more
_MAX_OTHER_SCRIPT = 0.1  # share of letters that are neither Latin nor Greek (µ, α, β)

_WORD = re.compile(r"[^\W_]+(?:[-'’][^\W_]+)*|[^\w\s]", re.UNICODE)
_SENTENCE_END = re.compile(r"[.!?…][\"')\]]*(?=\s|$)")
_REFUSAL = re.compile(
    r"\bI(?:'|’| a)m (?:sorry|unable|not able|an AI)\b|\bsorry,|\bI (?:can(?:not|'t|’t| not)|do not|don't|am unable)\b"
    r"|\bas an? (?:AI|language model|artificial)\b|\bunable to (?:provide|analy|view|see|assist|identify|process)"
    r"|\bno image (?:was|is|has been)\b|\bplease (?:provide|upload|share|consult)\b|\bI can help you\b",
    re.IGNORECASE,
)
_TRUNCATED = re.compile(
    r"(?:[,;:(\[/–—-]|\b(?:a|an|the|and|or|of|with|without|in|on|at|to|by|from|for|is|are|no|which|that|as))$",
    re.IGNORECASE,
)
# Words of histology beyond the vocabulary of the parser: captions of breast or lymph node are accepted as well
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
    """The result of the filter for one text."""

    text: str
    """What a classifier may read: complete sentences without label words; empty if there is a failure."""
    failure: str = ""
    """Why the text was rejected, in a few words; empty if it was accepted."""
    scrubbed: bool = False
    """Whether words that name the diagnosis were removed."""


def judge(raw: str) -> Verdict:
    """Accept or reject the output of a captioner.

    A truncated last sentence is removed if a complete one precedes it. Equal texts get equal verdicts, and the text of
    a verdict passes the filter unchanged.

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
        text, scrubbed = bare, True  # judged again: the removal may leave a truncated end ("with a")


def fault(text: str) -> str:
    """Why a whole text is rejected: empty, refusal, wrong script, loop, too long, not about tissue; "" if it is not.

    Examples
    --------
    >>> fault("The weather is fine today.")
    'no word about tissue'
    """
    if not re.search(r"[^\W\d_]", text):
        return "empty"
    if _is_other_script(text):
        return "wrong script"
    if _REFUSAL.search(text):
        return "refusal"
    words = [word.lower() for word in _WORD.findall(text)]
    if _loops(words) or re.search(r"(\S)\1{9,}", text):
        return "loop"
    if len(words) > MAX_WORDS:
        return f"more than {MAX_WORDS} words"
    if not _HISTOLOGY.search(text) and not parse(text):
        return "no word about tissue"
    return ""


def is_whole(text: str) -> bool:
    """Whether a text ends like a complete sentence or a complete single phrase.

    "Nuclei with", "a few (" and "ganglion-" do not; nor does text after a complete sentence that has no full stop.

    Examples
    --------
    >>> is_whole("Abundant neuropil"), is_whole("No necrosis. Nuclei with")
    (True, False)
    """
    stripped = text.rstrip()
    if not stripped or _TRUNCATED.search(stripped):
        return False
    if stripped.count("(") > stripped.count(")") or stripped.count("[") > stripped.count("]"):
        return False
    return whole_sentences(stripped) in ("", stripped)


def whole_sentences(text: str) -> str:
    """The text up to the end of its last complete sentence; empty if there is none.

    Examples
    --------
    >>> whole_sentences("No necrosis. The nuclei are")
    'No necrosis.'
    """
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    return text[: ends[-1]] if ends else ""


def _is_other_script(text: str) -> bool:
    letters = [sign for sign in text if sign.isalpha()]
    # the character "micro sign" is a Greek µ with its own Unicode name
    known = sum(unicodedata.name(sign, "").startswith(("LATIN", "GREEK", "MICRO")) for sign in letters)
    return known < (1 - _MAX_OTHER_SCRIPT) * len(letters)


def _loops(words: list[str]) -> bool:
    for length in range(1, _LONGEST_LOOP + 1):
        run = 0
        for place in range(length, len(words)):
            run = run + 1 if words[place] == words[place - length] else 0
            # a run of n repeats has (n - 1) · length words equal to those `length` before them
            if run >= (_REPEATS - 1) * length:
                return True
    trigrams = [tuple(words[place : place + 3]) for place in range(len(words) - 2)]
    return len(trigrams) >= _MIN_TRIGRAMS and len(set(trigrams)) < _MIN_DISTINCT * len(trigrams)
