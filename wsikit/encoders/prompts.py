"""From words to prompts: which texts ask for a concept, and which ask for its competitors.

Synonyms come from the lexicon (`wsikit.encoders.concepts`), or from a file of the user. Negated texts are competitors
of the concept, never prompts for it.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wsikit.encoders.concepts import (
    AROUND,
    BACKGROUND,
    CONCEPTS,
    TEMPLATES,
    USUAL_COMPETITORS,
    Concept,
    lookup,
    plain_words,
)
from wsikit.errors import RequestError

_NEGATED = re.compile(
    r"\b(no|not|non|none|without|absent|absence|lack|lacks|lacking|negative for|free of|devoid of)\b", re.IGNORECASE
)
_LONGEST_KEY = 40
_JOINTS = re.compile(r"(?<=[a-z0-9])[\s_-]+(?=[a-z0-9])")
"""What joins words, but not the - of "CD56-"."""


@dataclass(frozen=True)
class PromptSet:
    """All texts for one concept: its place is the mean of the places of its texts."""

    key: str
    """As in the name of the column."""
    title: str
    prompts: tuple[str, ...]
    """Templates × synonyms, sorted, each once: the order of synonyms changes nothing."""
    shown: str = field(default="", compare=False)
    """For display: the words that were asked for, with the title where it is another."""


@dataclass(frozen=True)
class Query:
    """A concept and what competes with it."""

    concept: PromptSet
    competitors: tuple[PromptSet, ...]

    def record(self) -> dict[str, Any]:
        """For receipts: every text."""
        return {
            "prompts": list(self.concept.prompts),
            "against": {one.key: list(one.prompts) for one in self.competitors},
        }


def is_negated(text: str) -> bool:
    """Whether a text says that something is absent.

    >>> is_negated("no necrosis"), is_negated("necrosis absent"), is_negated("nodular necrosis")
    (True, True, False)
    """
    return _NEGATED.search(text) is not None


def slug(text: str) -> str:
    """Name of a concept in the name of a column: lower case, digits, hyphens. Texts of other words have other names:
    one with further signs, such as the + of "CD56+", ends with a hash of the text.

    >>> slug("Schwannian stroma"), slug("large pale nuclei."), slug("CD56+")
    ('schwannian-stroma', 'large-pale-nuclei', 'cd56-4579b45f')
    """
    plain = slug_without_signs(text)
    if plain == _JOINTS.sub("-", text.lower().strip(AROUND)) and len(plain) <= _LONGEST_KEY:
        return plain
    return f"{plain[:_LONGEST_KEY].strip('-')}-{hashlib.sha256(text.encode()).hexdigest()[:8]}".lstrip("-")


def slug_without_signs(text: str) -> str:
    """Letters and digits of a text, joined by hyphens: the name that its column had in earlier versions.

    >>> slug_without_signs("CD56+")
    'cd56'
    """
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def plan_queries(
    requested: Sequence[str],
    against: Sequence[str] = (),
    *,
    negation: bool = False,
    usual: bool = True,
    concepts: Mapping[str, Concept] = CONCEPTS,
    templates: Sequence[str] = TEMPLATES,
) -> tuple[Query, ...]:
    """One query for each requested concept.

    Each concept has its own competitors, so its map does not depend on what else is requested. Competitors are those of
    the lexicon, or `against` instead, and always background. Negated texts among `requested` ("no necrosis") are
    competitors of all concepts.

    Parameters
    ----------
    requested, against
        Keys, titles or synonyms of concepts, or any other text, which is then its own only synonym.
    negation
        Whether "no …" of each of its synonyms competes with a concept, too: for encoders that were trained on texts
        which state what is absent.
    usual
        Whether the competitors of the lexicon are taken where `against` is empty.
    concepts
        The lexicon; `read_concepts` adds those of a file.
    templates
        Texts with one {} each, for the synonym.

    Raises
    ------
    RequestError
        An empty text, only negated ones, or two different concepts of the same name.

    >>> [query.concept.key for query in plan_queries(["neuropil", "no necrosis"])]
    ['neuropil']
    """
    for text in (*requested, *against):
        _check_text(text)
    check_templates(templates)
    positive = [text for text in requested if not is_negated(text)]
    negated = [text for text in requested if is_negated(text)]
    if not positive:
        raise RequestError(
            f"{', '.join(map(repr, requested)) or 'no concept'}: a map shows where something is. Ask for it without a "
            "negation; a negated text is a competitor (--against)."
        )
    queries = []
    for text in positive:
        concept = _concept(text, concepts)
        named = list(against)
        if usual and not named:
            named = [key for key in concept.competitors or USUAL_COMPETITORS if key in concepts]
        asked = [_asked(rival, concepts, templates) for rival in (*named, *negated, BACKGROUND)]
        if negation:
            denied = tuple(f"no {synonym}" for synonym in concept.synonyms)
            rival = Concept(f"no-{concept.key}", f"No {concept.title.lower()}", denied)
            asked.append(_prompt_set(rival, templates, f"no {text if lookup(text, concepts) else denied[0][3:]}"))
        by_key = {rival.key: rival for rival in asked if rival.key != concept.key}
        own = _asked(text, concepts, templates)
        taken = {prompt.casefold() for prompt in own.prompts}
        doubled = next(
            (rival for rival in by_key.values() if taken & {text.casefold() for text in rival.prompts}), None
        )
        if doubled is not None:
            raise RequestError(
                f"{concept.title} and its competitor {doubled.title} share a synonym; a text cannot be its own rival."
            )
        if not by_key:
            raise RequestError(f"{concept.title} has no competitor; give one with --against.")
        queries.append(Query(own, tuple(by_key[key] for key in sorted(by_key))))
    _check_names(queries)
    rivals_of_none = {_concept(text, concepts).key for text in against} - {
        rival.key for query in queries for rival in query.competitors
    }
    if rivals_of_none:
        raise RequestError(f"{', '.join(sorted(rivals_of_none))}: requested, and given as its own competitor.")
    return tuple(queries)


def check_templates(templates: Sequence[str]) -> None:
    """RequestError if a template has not exactly one {}, or there is none."""
    wrong = [text for text in templates if text.count("{}") != 1]
    if wrong or not templates:
        raise RequestError(f"template {wrong[0] if wrong else ''!r}: expected one {{}}, such as 'an H&E image of {{}}'")


def prompts_of(synonyms: Iterable[str], templates: Sequence[str]) -> tuple[str, ...]:
    """Templates × synonyms, sorted, each once.

    >>> prompts_of(["fat"], ["{}", "an H&E image of {}"])
    ('an H&E image of fat', 'fat')
    """
    return tuple(sorted({template.replace("{}", _check_text(text)) for text in synonyms for template in templates}))


def read_concepts(path: str | os.PathLike[str], known: Mapping[str, Concept] = CONCEPTS) -> dict[str, Concept]:
    """The lexicon with the concepts of a file, which replace those of the same name.

    JSON or YAML: `{"rhabdoid cells": ["rhabdoid cells", …], …}`, or per concept `{"synonyms": […], "competitors":
    […], "title": "…"}`. CSV: columns `concept` and `synonym`, one row each.

    Raises
    ------
    RequestError
        The file cannot be read, or is not of this form; a synonym is empty or negated.
    """
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{file}: cannot be read ({error}); give a JSON, YAML or CSV file of synonyms.") from error
    found = dict(known)
    for name, entry in _entries(file, text).items():
        _check_text(name)
        record = entry if isinstance(entry, Mapping) else {"synonyms": entry}
        unknown = set(record) - {"synonyms", "competitors", "title"}
        synonyms, competitors = record.get("synonyms"), record.get("competitors", [])
        if unknown or not _are_texts(synonyms) or not synonyms or not _are_texts(competitors):
            raise RequestError(
                f"{file}: {name}: expected a list of synonyms, or synonyms, competitors and title; found {entry!r}"
            )
        for synonym in (*synonyms, *competitors):
            _check_text(synonym)
        negated = [synonym for synonym in synonyms if is_negated(synonym)]
        if negated:
            raise RequestError(
                f"{file}: {name}: {negated[0]!r} is negated, and would ask for what it denies. Make it a competitor."
            )
        before = lookup(name, known)
        key = before.key if before is not None else slug(name)
        title = str(record.get("title") or (before.title if before is not None else name[:1].upper() + name[1:]))
        inherited = before.competitors if before is not None else ()
        found[key] = Concept(key, title, tuple(synonyms), tuple(competitors) or inherited)
    return found


def _entries(file: Path, text: str) -> Mapping[str, Any]:
    """Concept to its entry in the file."""
    if file.suffix.lower() == ".csv":
        reader = csv.DictReader(io.StringIO(text))
        if not {"concept", "synonym"} <= set(reader.fieldnames or ()):
            raise RequestError(f"{file}: columns {reader.fieldnames}; expected concept and synonym")
        rows: dict[str, list[str]] = {}
        for row in reader:
            rows.setdefault((row["concept"] or "").strip(), []).append((row["synonym"] or "").strip())
        return rows
    try:
        if file.suffix.lower() == ".json":
            record = json.loads(text)
        else:
            import yaml

            record = yaml.safe_load(text)
    except Exception as error:  # errors of two parsers
        raise RequestError(f"{file}: neither JSON nor YAML ({' '.join(str(error).split())})") from error
    if not isinstance(record, Mapping) or not all(isinstance(name, str) for name in record):
        raise RequestError(f"{file}: expected concepts by name, each with a list of synonyms")
    return record


def _concept(text: str, concepts: Mapping[str, Concept]) -> Concept:
    """The concept of the lexicon that a text names, or a new one with this text alone."""
    known = lookup(text, concepts)
    return known if known is not None else Concept(slug(text), text[:1].upper() + text[1:], (text,))


def _asked(text: str, concepts: Mapping[str, Concept], templates: Sequence[str]) -> PromptSet:
    """The texts of what was asked for."""
    concept = _concept(text, concepts)
    same = {plain_words(name) for name in (concept.title, concept.key)}
    words = text[:1].upper() + text[1:]
    shown = concept.title if plain_words(text) in same else f"{words} ({concept.title})"
    return _prompt_set(concept, templates, shown)


def _prompt_set(concept: Concept, templates: Sequence[str], shown: str) -> PromptSet:
    return PromptSet(concept.key, concept.title, prompts_of(concept.synonyms, templates), shown)


def _check_text(text: str) -> str:
    if not isinstance(text, str) or not any(sign.isalnum() for sign in text):
        raise RequestError(f"prompt {text!r}: empty. A text without words has no meaning that could be found.")
    return text


def _check_names(queries: Sequence[Query]) -> None:
    names = [query.concept.key for query in queries]
    double = next((name for name in names if names.count(name) > 1), None)
    if double is not None:
        raise RequestError(f"{double}: requested twice, also under another name; ask for each concept once.")


def _are_texts(values: Any) -> bool:
    return isinstance(values, list | tuple) and all(isinstance(value, str) for value in values)
