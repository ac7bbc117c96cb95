"""Answers on several images are assigned to exactly these images, or not at all."""

from __future__ import annotations

import pytest

from wsikit.captions.calls import asking_of, joint_prompt, read_answers
from wsikit.captions.fields import Field, position_in_field, with_position
from wsikit.captions.filter import judge
from wsikit.captions.parser import parse
from wsikit.errors import RequestError

TWO = ["Neuropil.", "Blood."]


@pytest.mark.parametrize(
    "text",
    [
        '{"1": "Neuropil.", "2": "Blood."}',
        '{"2": "Blood.", "1": " Neuropil. "}',
        '```json\n{"1": "Neuropil.", "2": "Blood."}\n```',
        '["Neuropil.", "Blood."]',
        "1. Neuropil.\n2. Blood.",
        "Image 1: Neuropil.\n\nImage 2: Blood.\n",
    ],
)
def test_one_text_for_each_image_is_read(text: str) -> None:
    assert read_answers(text, 2) == TWO


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Neuropil. Blood.",
        '["Neuropil."]',
        '["Neuropil.", "Blood.", "Fat."]',
        '["Neuropil.", ""]',
        '["Neuropil.", null]',
        '{"1": "Neuropil."}',
        '{"1": "Neuropil.", "3": "Blood."}',
        '{"0": "Neuropil.", "1": "Blood."}',
        '{"1": "Neuropil.", "2": "Blood.", "3": "Fat."}',
        '{"1": "Neuropil.", "1": "Blood.", "2": "Fat."}',
        'Here they are: {"1": "Neuropil.", "2": "Blood."}',
        '{"1": "Neuropil.", "2": "Blo',
        "2. Blood.\n1. Neuropil.",
        "1. Neuropil.\n3. Blood.",
        "1. Neuropil.\n2. Blood.\n3. Fat.",
        "Both are tissue.\n1. Neuropil.\n2. Blood.",
        "1. Neuropil.\n2. \n",
        "[" * 100_000,
    ],
)
def test_any_other_number_or_form_is_not_used(text: str) -> None:
    assert read_answers(text, 2) is None


def test_the_prompt_names_every_image() -> None:
    assert joint_prompt("Why?", 3).endswith('{"1": "…", "2": "…", "3": "…"}')


def test_single_patches_leave_fingerprints_as_they_were() -> None:
    assert asking_of(None, 1) == {}
    records = [asking_of(Field(896), 1), asking_of(Field(896, 1.0), 1), asking_of(None, 2), asking_of(Field(896), 2)]
    assert all(records)
    assert all(a != b for i, a in enumerate(records) for b in records[:i])


@pytest.mark.parametrize("wrong", [(0, 2.0), (8, 0.0), (8, float("nan"))])
def test_a_field_has_a_size(wrong: tuple[int, float]) -> None:
    with pytest.raises(RequestError, match="caption field"):
        Field(*wrong)


def test_a_position_adds_no_statement_and_passes_the_filter() -> None:
    places = {position_in_field(x, y) for x in (0.1, 0.5, 0.9) for y in (0.1, 0.5, 0.9)}
    assert len(places) == 9
    for place in places:
        text = with_position("Abundant neuropil, no necrosis.", place)
        assert place in text
        assert parse(text) == parse("Abundant neuropil, no necrosis.")
        assert judge(text).text == text
