"""From words to prompts: the lexicon, files of synonyms, negation, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from wsikit.encoders.concepts import BACKGROUND, CONCEPTS, TEMPLATES, lookup
from wsikit.encoders.prompts import is_negated, plan_queries, prompts_of, read_concepts, slug
from wsikit.errors import RequestError


def test_the_lexicon_is_consistent() -> None:
    names: dict[str, str] = {}
    for key, concept in CONCEPTS.items():
        assert key == concept.key == slug(key)
        assert key not in concept.competitors
        assert set(concept.competitors) <= set(CONCEPTS)
        for text in concept.synonyms:
            assert not is_negated(text)
            assert names.setdefault(text.lower(), key) == key, f"{text} names two concepts"
            assert lookup(text) is concept


@pytest.mark.parametrize("key", sorted(CONCEPTS))
def test_every_concept_competes_with_background_and_not_with_itself(key: str) -> None:
    (query,) = plan_queries([key])
    rivals = [one.key for one in query.competitors]
    assert key not in rivals
    assert (BACKGROUND in rivals) == (key != BACKGROUND)
    assert len(rivals) >= 2


def test_a_synonym_and_a_key_ask_the_same_and_a_concept_is_asked_for_once() -> None:
    assert plan_queries(["Blood"]) == plan_queries(["haemorrhage"])
    with pytest.raises(RequestError, match="twice"):
        plan_queries(["blood", "haemorrhage"])


def test_a_map_does_not_depend_on_what_else_is_asked_for() -> None:
    assert plan_queries(["neuropil", "cartilage"])[0] == plan_queries(["neuropil"])[0]


def test_the_order_of_synonyms_changes_nothing() -> None:
    words = ["fat", "adipose tissue", "fat"]
    assert prompts_of(words, TEMPLATES) == prompts_of(words[::-1], TEMPLATES[::-1])


@pytest.mark.parametrize("text", ["NEUROPIL", "neuropil.", " Neuropil?! ", '"neuropil"'])
def test_case_and_punctuation_around_a_concept_do_not_make_it_another_text(text: str) -> None:
    assert plan_queries([text]) == plan_queries(["neuropil"])


@pytest.mark.parametrize("text", [".", "?!", "{}", "-"])
def test_a_text_of_punctuation_alone_is_refused_as_empty(text: str) -> None:
    for requested, against in (([text], []), (["neuropil"], [text])):
        with pytest.raises(RequestError, match="empty"):
            plan_queries(requested, against)


def test_a_single_word_is_kept_and_an_empty_text_is_refused() -> None:
    assert "necrosis" in plan_queries(["necrosis"])[0].concept.prompts
    for requested, against in (([""], []), (["  "], []), (["necrosis"], [""])):
        with pytest.raises(RequestError, match="empty"):
            plan_queries(requested, against)


@pytest.mark.parametrize(
    "text",
    ["no necrosis", "No evidence of tumour", "without rosettes", "necrosis absent", "free of calcium", "non-fat"],
)
def test_a_negated_text_is_a_competitor_and_never_a_prompt(text: str) -> None:
    assert is_negated(text)
    (query,) = plan_queries(["neuropil", text])
    assert query.concept == plan_queries(["neuropil"])[0].concept
    assert slug(text) in {one.key for one in query.competitors}
    with pytest.raises(RequestError, match="without a negation"):
        plan_queries([text])


def test_negation_lets_every_synonym_compete_with_its_denial() -> None:
    (query,) = plan_queries(["fat"], negation=True, templates=["{}", "{}."])
    denied = {one.key: one for one in query.competitors}["no-fat"]
    assert denied.prompts == tuple(sorted(f"no {prompt}" for prompt in query.concept.prompts))
    (plain,) = plan_queries(["fat"], templates=["{}", "{}."])
    assert query.concept == plain.concept
    assert {one.key for one in query.competitors} - {"no-fat"} == {one.key for one in plain.competitors}


def test_given_competitors_replace_those_of_the_lexicon_but_not_background() -> None:
    (query,) = plan_queries(["neuropil"], ["collagen", "lung tissue"])
    assert [one.key for one in query.competitors] == [BACKGROUND, "fibrous-stroma", "lung-tissue"]
    with pytest.raises(RequestError, match="its own competitor"):
        plan_queries(["neuropil"], ["fine fibrillary matrix of neurites"])


def test_an_unknown_text_is_its_own_only_synonym() -> None:
    (query,) = plan_queries(["hyaline cartilage"], templates=["{}", "a photo of {}"])
    assert (query.concept.key, query.concept.title) == ("hyaline-cartilage", "Hyaline cartilage")
    assert query.concept.prompts == ("a photo of hyaline cartilage", "hyaline cartilage")


def test_names_of_columns_are_different_for_different_texts_of_any_script() -> None:
    texts = ["坏死", "钙化", "x" * 60 + "a", "x" * 60 + "b", "Nekrose", "naïve", "nave"]
    names = [slug(text) for text in texts]
    assert len(set(names)) == len(texts)
    assert all(name.isascii() and name and len(name) <= 49 for name in names)


def test_names_of_columns_differ_with_the_words_and_not_with_how_they_are_written() -> None:
    different = ["CD56", "CD56+", "CD56-", "CD56 (strong)", "CD56 strong", "p < 0.5", "p > 0.5"]
    assert len({slug(text) for text in different}) == len(different)
    same = ["large pale nuclei", "Large pale nuclei.", "large-pale_nuclei", '"large pale nuclei"']
    assert {slug(text) for text in same} == {"large-pale-nuclei"}


def test_what_is_shown_are_the_words_that_were_asked_for() -> None:
    shown = {query.concept.shown for query in plan_queries(["blood", "necrosis", "Fibrous-stroma", "signet rings"])}
    assert shown == {"Blood (Haemorrhage)", "Necrosis", "Fibrous stroma", "Signet rings"}
    (query,) = plan_queries(["blood"], ["collagen"], negation=True, usual=False)
    assert [one.shown for one in query.competitors] == ["Background", "Collagen (Fibrous stroma)", "no blood"]


@pytest.mark.parametrize("ending", ["json", "yaml", "csv"])
def test_synonyms_come_from_a_file(tmp_path: Path, ending: str) -> None:
    record = {"neuropil": ["Neuropil-Matrix"], "rhabdoid cells": ["rhabdoid cells", "cells with inclusions"]}
    path = tmp_path / f"words.{ending}"
    rows = [f"{name},{word}" for name, words in record.items() for word in words]
    text = "\n".join(["concept,synonym", *rows]) if ending == "csv" else json.dumps(record)
    path.write_text(text, encoding="utf-8")
    concepts = read_concepts(path)
    (neuropil, rhabdoid) = plan_queries(["neuropil", "rhabdoid cells"], concepts=concepts, templates=["{}"])
    assert neuropil.concept.prompts == ("Neuropil-Matrix",)
    assert "necrosis" in {one.key for one in neuropil.competitors}
    assert rhabdoid.concept.prompts == ("cells with inclusions", "rhabdoid cells")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.json", "{", "neither JSON nor YAML"),
        ("a.json", "[1]", "concepts by name"),
        ("a.json", '{"fat": "adipose"}', "list of synonyms"),
        ("a.json", '{"fat": []}', "list of synonyms"),
        ("a.json", '{"fat": [""]}', "empty"),
        ("a.json", '{"fat": ["no fat"]}', "negated"),
        ("a.json", '{"fat": {"synonyms": ["fat"], "colour": "red"}}', "competitors"),
        ("a.csv", "name;word\n", "concept and synonym"),
    ],
)
def test_a_wrong_file_of_synonyms_is_named_with_what_is_wrong(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(RequestError, match=said) as caught:
        read_concepts(tmp_path / name)
    assert name in str(caught.value) or said == "empty"


def test_a_template_has_one_place_for_the_synonym() -> None:
    for templates in (["an image"], ["{} {}"], []):
        with pytest.raises(RequestError, match="template"):
            plan_queries(["fat"], templates=templates)


def test_damaged_yaml_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "cut.yaml").write_text("fat: [")
    with pytest.raises(RequestError, match=r"cut\.yaml") as caught:
        read_concepts(tmp_path / "cut.yaml")
    assert "\n" not in str(caught.value)
