"""Training with the numbers of captions, and with an image branch that sees the slide."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.training.test_trainer import RATES, toy_model, toy_set
from wsikit.errors import RequestError
from wsikit.models.config import NumbersConfig
from wsikit.models.mmlnb import MMLNB
from wsikit.models.slide_context import SlideContext
from wsikit.training.batches import Drawer, EpochOrder, Texts
from wsikit.training.config import CaptionsConfig
from wsikit.training.curriculum import CurriculumSchedule
from wsikit.training.data import PatchSet, class_weights
from wsikit.training.forward import outputs_of, slide_contexts
from wsikit.training.fusion_variants import bank_of
from wsikit.training.numbers import learn_bins, numbers_of
from wsikit.training.settings import FitSettings, TrainingSettings
from wsikit.training.stages import Stage, StagePlan
from wsikit.training.texts import with_captions
from wsikit.training.trainer import train
from wsikit.training.unimodal import train_text_branch

FACTS = ("blood_share", "fat_share")
EVERYTHING = StagePlan((Stage("all", 0, frozenset({"image", "text", "fusion"})),))


def numbered(n: int = 96, seed: int = 0, *, slides: int = 4) -> PatchSet:
    """The label is in the first fact relative to its slide only; captions are all alike."""
    rng = np.random.default_rng(seed)
    data = toy_set(n, seed)
    groups = np.array([f"slide{seed}-{i % slides}" for i in range(n)])
    level = rng.uniform(0, 10, slides)[np.arange(n) % slides]
    facts = np.stack([level + data.labels + rng.normal(0, 0.1, n), rng.normal(0, 1, n)], axis=1)
    data = PatchSet(data.images, data.labels, groups, ("a patch",) * n)
    return data.with_facts(FACTS, facts)


def numbered_model(*, context: bool = False, **numbers: object) -> MMLNB:
    config = toy_model().config
    image = config.image.model_copy(update={"context": "slide" if context else None})
    torch.manual_seed(0)
    chosen = NumbersConfig(facts=FACTS, width=16, bins=8, **numbers)  # type: ignore[arg-type]
    return MMLNB(config.model_copy(update={"numbers": chosen, "image": image}), toy_model().tokenizer)


@pytest.mark.parametrize("words", [True, False])
def test_the_text_branch_learns_from_numbers_relative_to_the_slide(words: bool):
    training, test = numbered(384), numbered(96, seed=7)
    settings = FitSettings(epochs=12, batch=32, lr=3e-3)
    weight = class_weights(training.labels, 3)
    accuracy = {}
    for in_slide in (True, False):
        model = numbered_model(words=words, in_slide=in_slide)
        probs = train_text_branch(model, training, test, settings, weight=weight, seed=0)
        accuracy[in_slide] = (probs.argmax(axis=1) == test.labels).mean()
    assert accuracy[True] > 0.85
    assert accuracy[False] < 0.7


def test_training_is_the_same_with_the_same_seed_and_moves_numbers_and_context():
    states = []
    settings = TrainingSettings(epochs=3, batch=24, lr=RATES, lambda_text=0.3, caption_drop=0.1, caption_swap=0.1)
    for _ in range(2):
        model = numbered_model(context=True)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        records = train(model, numbered(), settings, curriculum=CurriculumSchedule.over(3), stages=EVERYTHING)
        states.append(model.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in before)
    for name in ("numbers.embed", "numbers.edges", "image_context.layers.4.weight"):
        assert not torch.equal(before[name], states[0][name]), name
    assert np.isfinite([record.loss for record in records]).all()
    out = outputs_of(model, numbered(seed=3))
    assert np.isfinite(out.logits).all()


def test_words_and_numbers_are_dropped_and_swapped_together():
    data, model = numbered(), numbered_model()
    data = PatchSet(data.images, data.labels, data.groups, tuple(["dark patch", "bright patch"] * 48))
    data = data.with_facts(FACTS, np.stack([np.arange(96.0), np.arange(96) % 2], axis=1))
    learn_bins(model, data)
    texts = Texts.of(model, data)
    settings = TrainingSettings(epochs=3, batch=96, caption_drop=0.2, caption_swap=0.5)
    drawn = Drawer(data, texts, EpochOrder(96, settings), settings, torch.device("cpu"))(list(range(96)))
    source = drawn["numbers"][:, 0, 0].long()
    assert (drawn["numbers"][:, 0, 1].long() == source % 2).all()
    whole = texts(np.arange(96))
    assert (drawn["ids"].numpy() == whole.ids[source.numpy()]).all()
    own = source == torch.arange(96)
    assert 0.3 < own.float().mean() < 0.8
    assert not (drawn["own"] & ~own).any()
    assert 0.1 < (~drawn["present"]).float().mean() < 0.35


def test_the_numbers_of_a_patch_set_are_those_of_its_own_slide_also_after_a_selection():
    data, model = numbered(), numbered_model()
    rows = np.flatnonzero(data.groups == "slide0-1")
    one = numbers_of(model.config, data.select(rows[:3]))
    np.testing.assert_array_equal(one, numbers_of(model.config, data)[rows[:3]])
    np.testing.assert_array_equal(data.slide_facts[rows[0]], SlideContext.of(data.facts[rows]).statistics)
    assert numbers_of(toy_model().config, data) is None


def test_other_captions_drop_the_numbers_and_captions_of_others_bring_theirs():
    data = numbered()
    assert data.with_captions([""] * 96).facts is None
    order = np.random.default_rng(0).permutation(96)
    swapped = data.captioned_as(order)
    np.testing.assert_array_equal(swapped.facts, data.facts[order])
    np.testing.assert_array_equal(swapped.slide_facts, data.slide_facts[order])
    np.testing.assert_array_equal(swapped.labels, data.labels)


def test_a_patch_set_is_saved_with_its_numbers(tmp_path: Path):
    data = numbered()
    data.save(tmp_path / "d.npz")
    again = PatchSet.load(tmp_path / "d.npz")
    assert again.fact_names == FACTS
    for name in ("facts", "fact_uncertainty", "slide_facts"):
        np.testing.assert_array_equal(getattr(again, name), getattr(data, name))
    toy_set().save(tmp_path / "t.npz")
    assert PatchSet.load(tmp_path / "t.npz").facts is None


def test_captions_without_a_fact_that_the_model_reads_are_refused():
    with pytest.raises(RequestError, match="state none of blood_share, fat_share"):
        learn_bins(numbered_model(), toy_set())


def test_a_measuring_captioner_gives_its_facts_and_words_of_a_table_are_parsed():
    data = toy_set(12)
    measured = with_captions(data, CaptionsConfig(source="captioner", captioner="morphometry"), mpp=4.0)
    assert "eosin_share" in measured.fact_names
    assert np.isfinite(measured.facts[:, measured.fact_names.index("blank_share")]).all()
    assert (measured.fact_uncertainty == 0).all()
    said = data.with_captions(["Blood abundant."] * 6 + ["no blood"] * 6)
    assert with_captions(said, CaptionsConfig(), mpp=4.0).facts is None
    parsed = with_captions(said, CaptionsConfig(), mpp=4.0, numbers=True)
    column = parsed.fact_names.index("blood_share")
    np.testing.assert_allclose(parsed.facts[[0, 11], column], [0.7, 0.02])
    np.testing.assert_allclose(parsed.fact_uncertainty[[0, 11], column], [0.3, 0.02])


def test_the_context_of_a_slide_is_the_mean_of_its_image_features():
    model, data = numbered_model(context=True), numbered()
    found = slide_contexts(model, data)
    rows = np.flatnonzero(data.groups == "slide0-2")
    with torch.inference_mode():
        features = model.image.eval()(torch.from_numpy(data.images[rows])).numpy()
    np.testing.assert_allclose(found[rows[0], 0], features.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(found[rows[0], 1], features.std(axis=0), atol=1e-5)
    assert slide_contexts(toy_model(), data) is None


def test_a_fusion_is_fitted_on_features_with_numbers_and_context():
    data, model = numbered(48), numbered_model(context=True)
    learn_bins(model, data)
    torch.nn.init.normal_(model.image_context.layers[-1].weight)
    bank = bank_of(model, data, views=1)
    tokens = Texts.of(model, data)(np.arange(48))
    with torch.inference_mode():
        read = model.text_features(*(torch.from_numpy(a) for a in (tokens.ids, tokens.mask, tokens.numbers)))
        v = model.image(torch.from_numpy(data.images))
        v = model.in_slide(v, torch.from_numpy(slide_contexts(model, data)))
    assert bank.text.shape == (48, model.d_text)
    torch.testing.assert_close(bank.text, read, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(bank.image[:, 0], v, atol=1e-5, rtol=1e-5)
