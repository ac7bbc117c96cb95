"""The trainer on a toy task: bright and dark patches whose captions say so."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from wsikit.errors import ModelError, RequestError
from wsikit.models.config import ImageEncoderConfig, ModelConfig, PRMFConfig, TextEncoderConfig
from wsikit.models.mmlnb import MMLNB
from wsikit.models.prmf import PRMFOutput
from wsikit.models.tokenizer import CaptionTokenizer
from wsikit.training.augment import disturb, jitter_stain, turn
from wsikit.training.baselines import colour_histogram, fit_histogram_baseline, fit_text_baseline
from wsikit.training.batches import EpochOrder
from wsikit.training.curriculum import CurriculumSchedule
from wsikit.training.data import PatchSet, class_weights
from wsikit.training.forward import outputs_of
from wsikit.training.stages import Stage, StagePlan
from wsikit.training.trainer import EpochRecord, TrainingSettings, loss_of, train

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
EVERYTHING = StagePlan((Stage("all", 0, frozenset({"image", "text", "fusion"})),))


def run(model: MMLNB, *, epochs: int = 6, **changes: object) -> list[EpochRecord]:
    """Train on the toy set; what is no setting goes to `train`."""
    others = {
        name: changes.pop(name) for name in ("validation", "checkpoints", "resume", "on_epoch") if name in changes
    }
    settings = TrainingSettings(
        epochs=epochs, **{"batch": 12, "lr": RATES, "lambda_text": 0.3, "lambda_gate": 0.3, "seed": 1} | changes
    )
    return train(model, toy_set(), settings, curriculum=CurriculumSchedule.over(epochs), stages=EVERYTHING, **others)


def weights(model: MMLNB) -> list[torch.Tensor]:
    return [value.clone() for value in model.state_dict().values()]


def same(one: list[torch.Tensor], two: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


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
    one, two, other = toy_model(), toy_model(), toy_model()
    run(one, epochs=3)
    run(two, epochs=3)
    run(other, epochs=3, seed=2)
    assert same(weights(one), weights(two))
    assert not same(weights(one), weights(other))


def test_the_epoch_that_does_best_on_the_validation_set_is_kept():
    model, states = toy_model(), []
    records = run(
        model,
        validation=toy_set(seed=7),
        lr={"image": 0.05, "text": 0.05, "fusion": 0.05},  # so high that the last epoch is not the best
        on_epoch=lambda _: states.append(weights(model)),
    )
    losses = [record.validation["nll"] for record in records if record.validation]
    best = int(np.argmin(losses))
    assert [record.epoch for record in records if record.kept] == [best]
    assert same(weights(model), states[best])
    out = outputs_of(model, toy_set(seed=7))
    nll = -np.log(out.probs[np.arange(96), toy_set().labels]).mean()
    assert nll == pytest.approx(losses[best], abs=1e-5)


def test_without_a_validation_set_the_last_epoch_is_kept():
    records = run(toy_model(), epochs=3)
    assert [record.kept for record in records] == [False, False, True]


def test_patience_ends_a_run_that_gets_no_better_but_not_before_the_curriculum_does():
    still = {"image": 0.0, "text": 0.0, "fusion": 0.0}
    records = run(toy_model(), epochs=12, validation=toy_set(seed=7), lr=still, weight_decay=0.0, patience=2)
    assert len(records) == 8 + 2 + 1  # the rise ends with epoch 8; batch statistics alone still move


def test_the_gates_of_every_epoch_are_counted():
    records = run(toy_model(), epochs=3)
    assert all(sum(record.gate_histogram) == 96 for record in records)
    assert sum(records[0].gate_histogram[7:]) == 0  # the weight of the text is 0.3: no gate is beyond
    assert all(record.gate_histogram[0] > 0 for record in records)  # captions dropped


def test_a_rare_class_counts_as_much_as_the_others_when_asked_for():
    labels = np.array([0] * 90 + [1] * 9 + [2])
    found = class_weights(labels, 4)
    np.testing.assert_allclose(found[:3] * [90, 9, 1], 100 / 3, rtol=1e-6)
    assert found[3] == 0
    zeros, absent = torch.zeros(2, 2), torch.tensor([False, False])
    out = PRMFOutput(zeros, torch.tensor([[2.0, 0.0], [2.0, 0.0]]), zeros, zeros[:, 0], zeros[:, :1])
    losses = [
        loss_of(out, torch.tensor([0, 1]), present=absent, own=absent, alpha=0.0, weight=weight).item()
        for weight in (None, torch.tensor([1.0, 3.0]))
    ]
    assert losses[1] > losses[0]


def test_half_precision_learns_too_and_fp16_needs_a_gpu():
    records = run(toy_model(), epochs=9, precision="bf16", caption_drop=0.0, caption_swap=0.0)
    assert records[-1].loss < 0.6 * records[0].loss
    with pytest.raises(RequestError, match="fp16 needs a GPU"):
        run(toy_model(), epochs=3, precision="fp16")


def test_a_loss_that_is_no_number_ends_the_run_in_words():
    with pytest.raises(ModelError, match="the loss is (nan|inf).*Use lower learning rates"):
        run(toy_model(), epochs=3, lr={"image": 1e30, "text": 1e30, "fusion": 1e30})


def test_epochs_that_never_reach_the_end_of_the_curriculum_are_refused():
    """The official code ran one epoch by default: its later stages were never reached."""
    settings = TrainingSettings(epochs=30, lr=RATES)
    with pytest.raises(RequestError, match="30 epochs end before the curriculum does .epoch 100."):
        train(toy_model(), toy_set(), settings, curriculum=CurriculumSchedule(), stages=EVERYTHING)


def test_a_patient_in_training_and_validation_is_refused():
    with pytest.raises(RequestError, match="slide0-0"):
        run(toy_model(), epochs=3, validation=toy_set())


KILLED = """
import os, signal, sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
spec = spec_from_file_location("toy", sys.argv[1]); toy = module_from_spec(spec); spec.loader.exec_module(toy)
def end(record):
    if record.epoch == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
toy.torch.set_num_threads(1)
validation = toy.toy_set(seed=7)
toy.run(toy.toy_model(), epochs=4, checkpoints=Path(sys.argv[2]), validation=validation, on_epoch=end, resume=True)
"""


def test_a_killed_and_resumed_run_gives_the_same_weights_and_records(tmp_path: Path):
    whole, resumed = toy_model(), toy_model()
    wanted = run(whole, epochs=4, checkpoints=tmp_path / "whole", validation=toy_set(seed=7))
    command = [sys.executable, "-c", KILLED, __file__, str(tmp_path / "cut"), "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    torn = tmp_path / "cut" / "checkpoint-99"  # as a kill in the midst of writing leaves it
    torn.mkdir()
    (torn / "trainer_state.json").write_text('{"global_step": 9')
    found = run(resumed, epochs=4, checkpoints=tmp_path / "cut", validation=toy_set(seed=7), resume=True)
    assert same(weights(whole), weights(resumed))
    assert not torn.exists()

    def figures(records: list[EpochRecord]) -> list[tuple[object, ...]]:
        return [(r.epoch, r.loss, r.gate, r.gate_histogram, r.validation, r.kept) for r in records]

    assert figures(found) == figures(wanted)


def test_a_finished_run_that_is_resumed_trains_no_further(tmp_path: Path):
    one, two = toy_model(), toy_model()
    still = {"image": 0.0, "text": 0.0, "fusion": 0.0}
    changes: dict[str, object] = {"epochs": 12, "lr": still, "weight_decay": 0.0, "patience": 2}
    wanted = run(one, checkpoints=tmp_path, validation=toy_set(seed=7), **changes)
    found = run(two, checkpoints=tmp_path, validation=toy_set(seed=7), resume=True, **changes)
    assert found == wanted
    assert same(weights(one), weights(two))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda folder: run(toy_model(), epochs=3, checkpoints=folder), "holds an unfinished run. Resume it"),
        (lambda folder: run(toy_model(), epochs=4, checkpoints=folder, resume=True), "differs in curriculum, settings"),
        (
            lambda folder: run(toy_model(), epochs=3, checkpoints=folder, resume=True, validation=toy_set(seed=7)),
            "differs in validation patches",
        ),
    ],
)
def test_a_run_resumes_only_unchanged(tmp_path: Path, change: Callable[[Path], object], said: str):
    run(toy_model(), epochs=3, checkpoints=tmp_path)
    with pytest.raises(RequestError, match=said):
        change(tmp_path)


def test_words_that_name_the_class_show_in_the_baseline_of_words_as_written():
    labels = np.arange(60) % 2
    captions = [f"nuclei, {('undifferentiated', 'differentiating')[label]}" for label in labels]
    written, read = (fit_text_baseline(captions, labels, scrubbed=scrubbed) for scrubbed in (False, True))
    assert (written.predict(captions) == labels).all()
    assert (read.predict(captions) == labels).mean() == 0.5


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


def test_the_gate_is_taught_to_open_for_texts_worth_more_than_the_image_and_close_for_wrong_and_swapped_ones():
    labels = torch.tensor([0, 0, 0, 0])
    right, wrong = [5.0, 0.0], [0.0, 5.0]
    present, own = torch.tensor([True, True, True, False]), torch.tensor([True, True, False, False])

    def loss(c: list[float], images: list[list[float]]) -> float:
        text, gate = torch.tensor([right, wrong, right, right]), torch.tensor(c)
        out = PRMFOutput(torch.zeros_like(text), torch.tensor(images), text, gate, gate[:, None])
        settings = {"present": present, "own": own, "alpha": 1.0}
        return (loss_of(out, labels, **settings, lambda_gate=1.0) - loss_of(out, labels, **settings)).item()

    images = [wrong, right, right, right]
    wanted = loss([0.99, 0.01, 0.01, 0.5], images)
    assert wanted < loss([0.50, 0.01, 0.01, 0.5], images)
    assert wanted < loss([0.99, 0.50, 0.01, 0.5], images)
    assert wanted < loss([0.99, 0.01, 0.50, 0.5], images)
    assert wanted == loss([0.99, 0.01, 0.01, 0.9], images)  # without a caption there is nothing to learn
    alike = [right, wrong, right, right]  # each as good as its text: neither has to give way
    assert loss([0.5, 0.5, 0.01, 0.5], alike) < min(loss([c, 0.5, 0.01, 0.5], alike) for c in (0.1, 0.9))


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


def test_captions_are_dropped_and_swapped_at_the_requested_rates_and_own_marks_the_others():
    source, dropped, own = disturb(20_000, np.random.default_rng(0), drop=0.1, swap=0.2)
    assert dropped.mean() == pytest.approx(0.1, abs=0.01)
    assert own.mean() == pytest.approx(0.7, abs=0.01)
    assert (own == (~dropped & (source == np.arange(20_000)))).all()


def test_the_colour_histogram_is_a_recount_of_the_pixels():
    images = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3), dtype=np.uint8)
    features = colour_histogram(images, bins=4)
    for row, image in enumerate(images):
        counts = [np.histogram(image[..., c], bins=[0, 64, 128, 192, 256])[0] for c in range(3)]
        np.testing.assert_allclose(features[row], np.concatenate(counts) / 35, rtol=1e-6)


def test_the_colour_baseline_solves_a_colour_task():
    data, fresh = toy_set(), toy_set(seed=4)
    floor = fit_histogram_baseline(data.images, data.labels)
    assert (floor.predict(colour_histogram(fresh.images)) == fresh.labels).all()


@pytest.mark.parametrize("n", [12, 13, 25, 96])
def test_every_patch_is_in_one_batch_of_an_epoch_and_no_tail_is_dropped(n: int):
    order = EpochOrder(n, TrainingSettings(epochs=2, batch=12))
    batches = list(order)
    assert sorted(row for batch in batches for row in batch) == list(range(n))
    assert max(map(len, batches)) - min(map(len, batches)) <= 1
    assert len(batches) == len(order)
