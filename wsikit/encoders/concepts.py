"""Concepts of neuroblastic tumours, as data: the words by which an encoder of texts is asked for each of them.

A concept is compared with its competitors, so each has those that it could be mistaken for. No prompt is negated: a
text such as "no necrosis" lies near "necrosis" in the space of most encoders, and would ask for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

BACKGROUND = "background"
"""Key of the concept that competes with every other, so that bare glass is no tissue."""

COLUMN_PREFIX = "localize_"
"""Of the columns of the patch table that hold a concept's map."""

TEMPLATES = (
    "{}",
    "{}.",
    "an H&E image of {}",
    "a histopathology image showing {}",
    "{} is present",
)
"""Texts that are made of each synonym."""


@dataclass(frozen=True)
class Concept:
    """Something that is seen in tissue, with words for it."""

    key: str
    """Short name, as in the name of its column: lower case and hyphens."""
    title: str
    """For display."""
    synonyms: tuple[str, ...]
    """Texts that name it, without a template."""
    competitors: tuple[str, ...] = ()
    """Keys of the concepts that it is compared with by default; `BACKGROUND` is always one of them."""


_MATRIX = ("neuropil", "schwannian-stroma", "fibrous-stroma", "undifferentiated-cells", "necrosis", "haemorrhage")
"""What most of a neuroblastic tumour consists of, and its surroundings."""

_ALL = (
    Concept(
        "neuropil",
        "Neuropil",
        (
            "neuropil",
            "fibrillary neuropil",
            "fine fibrillary matrix of neurites",
            "fibrillary eosinophilic matrix",
            "fibrillary matrix (neuropil-like)",
        ),
        ("schwannian-stroma", "fibrous-stroma", "undifferentiated-cells", "necrosis", "haemorrhage", "oedema", "fat"),
    ),
    Concept(
        "schwannian-stroma",
        "Schwannian stroma",
        (
            "Schwannian stroma",
            "Schwann cell stroma",
            "spindle cell stroma",
            "spindle stroma",
            "wavy spindle cells of Schwannian stroma",
            "ganglioneuromatous stroma",
        ),
        ("neuropil", "fibrous-stroma", "undifferentiated-cells", "necrosis", "haemorrhage", "fat"),
    ),
    Concept(
        "ganglion-cells",
        "Ganglion cells",
        (
            "ganglion cells",
            "mature ganglion cells",
            "ganglion-like cells",
            "large cells with abundant cytoplasm, vesicular nuclei and prominent nucleoli",
        ),
        ("undifferentiated-cells", "lymphocytes", "neuropil", "schwannian-stroma", "fibrous-stroma", "necrosis"),
    ),
    Concept(
        "differentiating-neuroblasts",
        "Differentiating neuroblasts",
        (
            "differentiating neuroblasts",
            "neuroblasts with enlarged vesicular nuclei and eosinophilic cytoplasm",
            "large vesicular nuclei",
        ),
        ("undifferentiated-cells", "ganglion-cells", "lymphocytes", "neuropil", "schwannian-stroma", "necrosis"),
    ),
    Concept(
        "undifferentiated-cells",
        "Undifferentiated cells",
        (
            "undifferentiated neuroblasts",
            "undifferentiated small round blue cells",
            "sheets of small round blue cells",
            "densely packed tumour cells with scant cytoplasm",
            "poorly differentiated neuroblastoma cells",
        ),
        ("neuropil", "lymphocytes", "schwannian-stroma", "fibrous-stroma", "necrosis", "ganglion-cells"),
    ),
    Concept(
        "rosettes",
        "Rosettes",
        (
            "Homer Wright rosettes",
            "rosettes",
            "rosette-like rings",
            "pseudorosettes of neuroblasts around neuropil",
            "rings of tumour cells around fibrillary cores",
        ),
        ("undifferentiated-cells", "neuropil", "lymphocytes", "schwannian-stroma", "vessels"),
    ),
    Concept(
        "necrosis",
        "Necrosis",
        (
            "necrosis",
            "tumour necrosis",
            "necrotic tissue",
            "coagulative necrosis with ghost cells and karyorrhectic debris",
            "necrotic debris",
            "necrosis-like areas",
        ),
        ("neuropil", "haemorrhage", "schwannian-stroma", "fibrous-stroma", "undifferentiated-cells", "fat"),
    ),
    Concept(
        "haemorrhage",
        "Haemorrhage",
        (
            "haemorrhage",
            "hemorrhage",
            "blood",
            "red blood cells",
            "extravasated erythrocytes",
            "haemorrhagic tissue",
        ),
        ("neuropil", "necrosis", "schwannian-stroma", "fibrous-stroma", "undifferentiated-cells", "fat"),
    ),
    Concept(
        "calcification",
        "Calcification",
        ("calcification", "dystrophic calcification", "calcified tissue", "basophilic calcium deposits"),
        ("undifferentiated-cells", "necrosis", "haemorrhage", "fibrous-stroma", "neuropil"),
    ),
    Concept(
        "mitosis-karyorrhexis",
        "Mitoses and karyorrhexis",
        (
            "mitoses and karyorrhectic nuclei",
            "mitotic figures",
            "karyorrhexis",
            "mitosis-karyorrhexis",
            "apoptotic bodies and mitotic figures among tumour cells",
        ),
        ("undifferentiated-cells", "lymphocytes", "necrosis", "neuropil", "schwannian-stroma"),
    ),
    Concept(
        "lymphocytes",
        "Lymphocytes",
        (
            "lymphocytes",
            "lymphocytic infiltrate",
            "lymphoid tissue",
            "lymphoid aggregate",
            "small dark lymphocytes in sheets",
        ),
        ("undifferentiated-cells", "neuropil", "schwannian-stroma", "fibrous-stroma", "necrosis", "haemorrhage"),
    ),
    Concept(
        "fat",
        "Fat",
        ("fat", "adipose tissue", "adipocytes", "fat vacuoles of adipocytes", "fatty tissue"),
        ("neuropil", "fibrous-stroma", "schwannian-stroma", "oedema", "necrosis", "vessels"),
    ),
    Concept(
        "fibrous-stroma",
        "Fibrous stroma",
        (
            "fibrous stroma",
            "collagen",
            "collagenous stroma",
            "dense collagen bundles",
            "fibrous septa",
            "fibrovascular septa",
        ),
        ("schwannian-stroma", "neuropil", "necrosis", "haemorrhage", "undifferentiated-cells", "fat"),
    ),
    Concept(
        "vessels",
        "Blood vessels",
        ("blood vessels", "vessels with an endothelial lining", "capillaries and venules", "vascular lumens"),
        ("fibrous-stroma", "haemorrhage", "fat", "neuropil", "schwannian-stroma"),
    ),
    Concept(
        "oedema",
        "Oedema",
        ("oedema", "edema", "oedematous loose stroma", "pale myxoid matrix"),
        ("neuropil", "schwannian-stroma", "fibrous-stroma", "fat", "necrosis"),
    ),
    Concept(
        BACKGROUND,
        "Background",
        ("background", "bare glass", "empty glass slide", "blank white background", "glass"),
        _MATRIX,
    ),
)

CONCEPTS: Mapping[str, Concept] = {concept.key: concept for concept in _ALL}
"""All concepts by key."""

AROUND = " .,;:!?\"'"
"""Signs around a text that are not part of it. Others have a meaning of their own, such as the + of "CD56+"."""

USUAL_COMPETITORS = _MATRIX
"""Keys of the competitors of a text that is not in the lexicon."""


def lookup(text: str, concepts: Mapping[str, Concept] = CONCEPTS) -> Concept | None:
    """The concept that has `text` as its key, title or a synonym, regardless of case, spaces, hyphens and
    punctuation around it; or None.

    >>> lookup("Schwannian stroma").key, lookup("blood.").key, lookup("cartilage")
    ('schwannian-stroma', 'haemorrhage', None)
    """
    wanted = plain_words(text)
    for names in (lambda one: (one.key, one.title), lambda one: one.synonyms):
        for concept in concepts.values():
            if wanted in {plain_words(name) for name in names(concept)}:
                return concept
    return None


def plain_words(text: str) -> str:
    """The words of a text, to compare it with others: lower case, without hyphens and the signs around it."""
    return " ".join(text.lower().replace("-", " ").replace("_", " ").split()).strip(AROUND)
