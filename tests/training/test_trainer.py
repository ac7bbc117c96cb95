"""The trainer on a toy task: bright and dark patches whose captions say so."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wsikit.errors import RequestError
from wsikit.models.config import ImageEncoderConfig, ModelConfig, PRMFConfig, TextEncoderConfig
from wsikit.models.mmlnb import MMLNB
from wsikit.models.prmf import PRMFOutput
from wsikit.models.tokenizer import CaptionTokenizer
from wsikit.training.augment import disturb_captions, jitter_stain, turn
from wsikit.training.curriculum import CurriculumSchedule
from wsikit.training.data import PatchSet, refuse_shared_groups
from wsikit.training.floor import colour_histogram, fit_histogram_floor
from wsikit.training.stages import Stage, StagePlan
from wsikit.training.trainer import TrainingSettings, loss_of, train

WORDS = ("dark patch", "grey patch", "bright patch")


def toy_set(n: int = 96, seed: int = 0) -> PatchSet:
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    images = rng.normal(60 + 70 * labels[:, None, None, None], 20, (n, 32, 32, 3)).clip(0, 255).astype(np.uint8)
    groups = np.array([f"slide{seed}-{i // 6}" for i in range(n)])
    return PatchSet(images, labels, groups, tuple(WORDS[label] for label in labels))


def toy_model() -> MMLNB:
    torch.manual_seed(0)
    bert = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = ModelConfig(
        name="toy",
        version="1",
        classes=("a", "b", "c"),
        class_names=("a", "b", "c"),
        colors=("#000000", "#777777", "#ffffff"),
        mpp=0.5,
        patch_px=32,
        stain="none",
        captioner="none",
        text_max_tokens=12,
        prmf=PRMFConfig(d=16),
        image=ImageEncoderConfig(name="resnet18", options={"channels": [8, 8, 8, 8]}),
        text=TextEncoderConfig(model_type="bert", options={"vocab_size": 60, **bert}),
        notice="toy",
    )
    return MMLNB(config, CaptionTokenizer.train(WORDS, vocabulary=60, max_tokens=12))


RATES = {"image": 3e-3, "text": 3e-3, "fusion": 3e-3}


def run(model: MMLNB, **changes: object) -> list:
    settings = TrainingSettings(epochs=6, batch=12, lr=RATES, lambda_text=0.3, lambda_gate=0.3, seed=1)
    settings = settings.model_copy(update=changes)
    everything = StagePlan((Stage("all", 0, frozenset({"image", "text", "fusion"})),))
    return train(model, toy_set(), settings, curriculum=CurriculumSchedule.over(settings.epochs), stages=everything)


def test_training_solves_the_toy_task_and_the_weight_of_the_text_follows_the_curriculum():
    model, fresh = toy_model(), toy_set(seed=7)
    records = run(model, epochs=9, caption_drop=0.0, caption_swap=0.0)
    tokens = model.read(fresh.captions)
    arrays = (fresh.images, tokens.ids, tokens.mask, tokens.present)
    with torch.no_grad():
        out = model(*(torch.from_numpy(array) for array in arrays))
    assert (out.logits.argmax(dim=1).numpy() == fresh.labels).mean() > 0.9
    assert [record.alpha for record in records] == [0.3, 0.3, 0.3, 0.3, 0.44, 0.72, 1.0, 1.0, 1.0]
    assert all(record.gate <= record.alpha for record in records)
    assert not model.training


def test_the_same_seed_gives_the_same_weights():
    one, two = toy_model(), toy_model()
    run(one, epochs=3)
    run(two, epochs=3)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values()))


def test_a_part_once_frozen_keeps_weights_and_batch_statistics_to_the_last_bit():
    """Neither stale gradients, nor momentum, nor weight decay may move it on."""
    model = toy_model()
    states: list[dict[str, torch.Tensor]] = []
    stages = StagePlan(
        (Stage("all", 0, frozenset({"image", "text", "fusion"})), Stage("fusion", 2, frozenset({"fusion"})))
    )
    train(
        model,
        toy_set(),
        TrainingSettings(epochs=4, batch=12, lr=RATES),
        curriculum=CurriculumSchedule.over(4),
        stages=stages,
        on_epoch=lambda _: states.append({name: value.clone() for name, value in model.state_dict().items()}),
    )
    kept = [name for name in states[0] if name.startswith(("image.", "text."))]
    assert all(torch.equal(states[1][name], states[3][name]) for name in kept)
    assert not all(torch.equal(states[0][name], states[1][name]) for name in kept)


def output(logits_txt: list[list[float]], c: list[float]) -> PRMFOutput:
    text = torch.tensor(logits_txt)
    return PRMFOutput(torch.zeros_like(text), torch.zeros_like(text), text, torch.tensor(c), torch.tensor(c)[:, None])


def test_the_gate_is_taught_to_open_for_right_texts_and_close_for_wrong_and_foreign_ones():
    labels = torch.tensor([0, 0, 0, 0])
    right, wrong = [5.0, 0.0], [0.0, 5.0]
    present, own = torch.tensor([True, True, True, False]), torch.tensor([True, True, False, False])

    def loss(c: list[float]) -> float:
        out = output([right, wrong, right, right], c)
        return loss_of(out, labels, present=present, own=own, alpha=1.0, lambda_gate=1.0).item()

    wanted = loss([0.99, 0.01, 0.01, 0.5])
    assert wanted < loss([0.50, 0.01, 0.01, 0.5])
    assert wanted < loss([0.99, 0.50, 0.01, 0.5])
    assert wanted < loss([0.99, 0.01, 0.50, 0.5])
    assert wanted == loss([0.99, 0.01, 0.01, 0.9])  # without a caption there is nothing to learn


def test_turning_keeps_every_pixel_and_reaches_all_eight_symmetries():
    image = torch.arange(27, dtype=torch.uint8).reshape(1, 3, 3, 3)
    turned = turn(image.repeat(200, 1, 1, 1), np.random.default_rng(0))
    assert len({tuple(t.flatten().tolist()) for t in turned}) == 8
    assert (turned.reshape(200, -1).sort(dim=1).values == image.flatten()).all()


def test_stain_jitter_of_no_strength_changes_nothing_and_glass_stays_white():
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8))
    same = jitter_stain(images, np.random.default_rng(0), scale=0.0, shift=0.0)
    assert (same.int() - images.int()).abs().max() <= 1
    white = torch.full((3, 4, 4, 3), 255, dtype=torch.uint8)
    assert (jitter_stain(white, np.random.default_rng(0), scale=0.5, shift=0.0) == 255).all()
    stronger = jitter_stain(images, np.random.default_rng(0), scale=0.3, shift=0.05)
    assert (stronger.int() - images.int()).abs().float().mean() > 5


def test_captions_are_dropped_and_swapped_as_often_as_asked_and_own_says_so():
    captions = [str(i) for i in range(20_000)]
    disturbed, own = disturb_captions(captions, np.random.default_rng(0), drop=0.1, swap=0.2)
    assert np.mean([caption is None for caption in disturbed]) == pytest.approx(0.1, abs=0.01)
    assert own.mean() == pytest.approx(0.7, abs=0.01)
    assert all((new == old) == mine for new, old, mine in zip(disturbed, captions, own))


def test_a_slide_on_both_sides_of_a_split_is_refused():
    with pytest.raises(RequestError, match="slide0-0"):
        refuse_shared_groups(toy_set(seed=0), toy_set(seed=0))
    refuse_shared_groups(toy_set(seed=0), toy_set(seed=1))


def test_a_patch_set_comes_back_from_disk_without_pickles(tmp_path):
    data = toy_set()
    data.save(tmp_path / "set.npz")
    loaded = PatchSet.load(tmp_path / "set.npz")
    assert (loaded.images == data.images).all()
    assert loaded.captions == data.captions
    assert loaded.groups.tolist() == data.groups.tolist()


def test_rows_of_different_number_are_refused():
    data = toy_set()
    with pytest.raises(RequestError, match="96 images"):
        data.with_captions(data.captions[:-1])


def test_the_colour_histogram_is_a_recount_of_the_pixels():
    images = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3), dtype=np.uint8)
    features = colour_histogram(images, bins=4)
    for row, image in enumerate(images):
        counts = [np.histogram(image[..., c], bins=[0, 64, 128, 192, 256])[0] for c in range(3)]
        np.testing.assert_allclose(features[row], np.concatenate(counts) / 35, rtol=1e-6)


def test_the_floor_solves_what_colour_alone_tells():
    data, fresh = toy_set(), toy_set(seed=4)
    floor = fit_histogram_floor(data.images, data.labels)
    assert (floor.predict(colour_histogram(fresh.images)) == fresh.labels).all()
