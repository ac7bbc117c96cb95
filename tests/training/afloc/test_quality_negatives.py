"""Degraded copies in AFLoc's training: what they are negatives of, and that they are needed for robustness."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from tests.training.afloc.test_run import config_of, learner_of, settings, write_data
from wsikit.errors import RequestError
from wsikit.models.afloc import AFLoc
from wsikit.models.afloc_losses import global_scores
from wsikit.training.afloc.config import AflocTrainConfig
from wsikit.training.afloc.learner import Learner, paced
from wsikit.training.afloc.run import AflocCallbacks, afloc_patches, build_afloc, run_afloc_training
from wsikit.training.afloc.settings import AflocSettings
from wsikit.training.afloc.statements import statements_of
from wsikit.training.afloc.trainer import train_afloc
from wsikit.training.degrade import degrade
from wsikit.training.task import read_config

COPIES = {"share": 0.5, "kinds": ["pen"]}
JUDGED = COPIES | {"truth": "caption"}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_data(tmp_path)
    return tmp_path


def test_copies_judged_by_captions_are_further_rows_of_two_levels(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learner, _ = learner_of(data, quality_negatives=JUDGED, weights={"word": 1, "sentence": 1, "presence": 1})
    seen: dict[str, Any] = {}
    presence, loss_of = learner._presence, learner._loss

    def spy_presence(features: torch.Tensor, rows: np.ndarray, rng: Any, **options: Any) -> torch.Tensor:
        seen["presence"] = len(features), rows.copy(), options["copies"]
        return presence(features, rows, rng, **options)

    def spy_loss(scores: torch.Tensor, positives: torch.Tensor, level: str) -> torch.Tensor:
        seen[level] = positives.numpy()
        return loss_of(scores, positives, level)

    monkeypatch.setattr(learner, "_presence", spy_presence)
    monkeypatch.setattr(learner, "_loss", spy_loss)
    learner.losses(np.arange(8)[:, None], np.random.default_rng(0))
    n, rows, copies = seen["presence"]
    assert (n, len(rows), copies) == (12, 12, 4)
    assert set(rows[8:]) < set(range(8))
    assert len(set(rows[8:])) == 4
    assert len(seen["word"]) == 8
    assert len(seen["sentence"]) == 12
    np.testing.assert_array_equal(seen["sentence"][8:], seen["sentence"][rows[8:]])
    assert (~seen["sentence"][8:]).any(axis=1).all()  # negatives of the texts that are not true of them


def following(learner: Learner, copies: torch.Tensor, of: np.ndarray, images: torch.Tensor) -> torch.Tensor:
    """The loss of copies of some of the images, in evaluation mode."""
    learner.eval()
    sentences = learner.model.sentences(["necrosis", "fat", "no necrosis", "no fat"])
    logits = 10.0 * learner._leanings(learner.model.image(images), sentences)
    return learner._following(copies, of, logits.detach(), sentences.detach(), torch.tensor(10.0))


def test_a_copy_without_fault_has_the_least_loss_and_asks_for_no_change(data: Path) -> None:
    learner, patches = learner_of(data, quality_negatives=COPIES | {"weight": 0.5}, weights={"presence": 1})
    images, of = torch.from_numpy(patches.images[:6]), np.array([1, 4])
    loss = following(learner, images[of], of, images)
    share = (10.0 * learner._leanings(learner.model.image(images), learner.model.sentences(
        ["necrosis", "fat", "no necrosis", "no fat"]
    )))[of].sigmoid()  # fmt: skip
    entropy = -(share * share.log() + (1 - share) * (1 - share).log()).mean()
    assert float(loss.detach()) == pytest.approx(0.5 * float(entropy.detach()), rel=1e-4)
    loss.backward()
    changes = [float(part.grad.abs().max()) for part in learner.model.parameters() if part.grad is not None]
    assert max(changes) < 1e-4
    worse = following(learner, images[np.array([2, 5])], of, images)  # of the other colour
    assert worse > loss


def test_only_the_image_branch_learns_by_copies_that_follow_their_patches(data: Path) -> None:
    learner, patches = learner_of(data, quality_negatives=COPIES, weights={"presence": 1})
    images = torch.from_numpy(patches.images[:4])
    following(learner, images.flip(0), np.arange(4), images).backward()
    changed = {name.split(".")[0] for name, part in learner.model.named_parameters() if part.grad is not None}
    assert changed == {"image", "heads"}
    heads = {name for name, part in learner.model.heads.named_parameters() if part.grad is not None}
    assert heads == {"of_patch.weight", "of_patch.bias"}


def test_copies_that_follow_their_patches_leave_statistics_and_other_levels_as_they_are(data: Path) -> None:
    found = {}
    for name, copies in (("without", None), ("with", COPIES)):
        torch.manual_seed(0)
        learner, _ = learner_of(data, quality_negatives=copies, weights={"word": 1, "sentence": 1, "presence": 1})
        learner.train()
        seen: list[int] = []
        loss_of = learner._loss

        def spy(
            scores: torch.Tensor, positives: torch.Tensor, level: str, *, of: Any = loss_of, to: list[int] = seen
        ) -> Any:
            to.append(len(scores))
            return of(scores, positives, level)

        learner._loss = spy  # type: ignore[method-assign]
        losses = learner.losses(np.arange(8)[:, None], np.random.default_rng(0))
        found[name] = {key: value.clone() for key, value in learner.model.image.state_dict().items()}, seen, losses
    assert found["with"][1] == found["without"][1] == [8, 8]
    for key, value in found["without"][0].items():
        assert torch.equal(value, found["with"][0][key]), key
    assert len(found["with"][2]) == 3


def test_without_the_option_no_image_is_added_and_the_settings_are_written_as_before(data: Path) -> None:
    learner, _ = learner_of(data)
    copies, of = learner._degraded(torch.zeros(8, 32, 32, 3, dtype=torch.uint8), np.random.default_rng(0))
    assert len(copies) == len(of) == 0
    plain = AflocSettings.model_validate(settings()["training"])
    assert "quality_negatives" not in plain.model_dump(mode="json")
    with_copies = AflocSettings.model_validate(settings(quality_negatives=JUDGED)["training"])
    assert with_copies.model_dump(mode="json")["quality_negatives"]["share"] == 0.5


def robustness(folder: Path, **training: Any) -> float:
    """Margin by which penned red patches are nearer to "necrosis" than to "fat", and blue ones farther; 0 is chance."""
    config = config_of(folder, **training)
    prepared, patches = afloc_patches(config, AflocCallbacks())
    statements = statements_of(patches.captions)
    model: AFLoc = build_afloc(config, statements, mpp=prepared.mpp)
    known, held = patches.select(np.arange(32)), patches.select(np.arange(32, 48))
    train_afloc(
        model, known, statements_of(known.captions), config.training,
        validation=held, of_validation=statements_of(held.captions),
    )  # fmt: skip
    penned = degrade(held.images, np.random.default_rng(5), kinds=["pen"], mpp=0.5)
    with torch.inference_mode():
        scores = global_scores(model.patches(torch.from_numpy(penned)), model.sentences(["necrosis", "fat"]))
    margin = (scores[:, 0] - scores[:, 1]).numpy()
    return float(margin[::2].mean() - margin[1::2].mean())


@pytest.mark.slow
def test_training_with_penned_copies_keeps_prompts_right_on_penned_patches(data: Path) -> None:
    common = {"epochs": 12, "weights": {"sentence": 1.0, "presence": 2.0}}
    copies = {"share": 1.0, "kinds": ["pen"], "truth": "caption"}
    assert robustness(data, **common, quality_negatives=copies) > robustness(data, **common)


def test_penned_patches_learn_the_answers_of_their_clean_patches(data: Path) -> None:
    learner, patches = learner_of(data, quality_negatives=COPIES | {"weight": 1.0}, weights={"presence": 1})
    learner.train()
    with torch.no_grad():
        for _ in range(30):  # statistics of batch normalisation, which copies use and do not change
            learner.model.image(torch.from_numpy(patches.images))
    learner.eval()
    n, red = 32, np.arange(48) % 2 == 0
    penned = torch.from_numpy(degrade(patches.images, np.random.default_rng(5), kinds=["pen"], mpp=0.5))
    answers = torch.from_numpy(np.where(red[:, None], [3.0, -3.0], [-3.0, 3.0])).float()  # necrosis, fat
    sentences = learner.model.sentences(["necrosis", "fat", "no necrosis", "no fat"]).detach()
    optimizer = torch.optim.Adam(learner.model.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        learner._following(penned[:n], np.arange(n), answers[:n], sentences, torch.tensor(10.0)).backward()
        optimizer.step()
    with torch.no_grad():
        found = learner._leanings(learner.model.image(penned[n:]), sentences).numpy()  # not learned from
    assert ((found[:, 0] > found[:, 1]) == red[n:]).mean() > 0.85


@pytest.mark.parametrize("truth", ["patch", "caption"])
def test_a_run_with_self_paced_copies_trains_and_is_repeated_exactly(data: Path, truth: str) -> None:
    copies = COPIES | {"self_paced": True, "truth": truth}
    config = config_of(data, weights={"sentence": 1.0, "presence": 1.0}, quality_negatives=copies)
    for name in ("one", "two"):
        run_afloc_training(config, data / name, device="cpu")
    weights = [(data / name / "model" / "model.safetensors").read_bytes() for name in ("one", "two")]
    assert weights[0] == weights[1]


def test_self_paced_copies_begin_with_the_easier_half(data: Path) -> None:
    learner, _ = learner_of(data, epochs=3, weights={"presence": 1.0}, quality_negatives=JUDGED | {"self_paced": True})
    shares = []
    for epoch in range(3):
        learner.begin(epoch)
        shares.append(learner._pace)
    assert shares == [0.5, 0.75, 1.0]
    losses = torch.tensor([9.0, 9.0, 4.0, 1.0, 3.0, 2.0])
    assert paced(losses, 4, 0.5).tolist() == [True, True, False, True, False, True]
    assert paced(losses, 4, 1.0).all()


def test_the_loss_of_hard_copies_is_left_out_at_first(data: Path) -> None:
    learner, patches = learner_of(
        data, epochs=2, weights={"presence": 1.0}, quality_negatives=JUDGED | {"self_paced": True}
    )

    def presence(learner: Learner) -> float:
        features = learner.model.image(torch.from_numpy(patches.images[:4])).repeat(2, 1)  # copies without a fault
        rows = np.concatenate([np.arange(4), np.arange(4)])
        return float(learner._presence(features, rows, np.random.default_rng(0), copies=4).detach())

    learner.begin(0)
    early = presence(learner)
    learner.begin(1)
    assert presence(learner) > early


def test_copies_that_no_level_uses_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    features = {"image": {"features": "uni"}, "training": settings(quality_negatives=JUDGED, bag=2)["training"]}
    for change, fault in (
        ({"training": settings(quality_negatives=JUDGED, weights={"word": 1})["training"]}, "presence or sentence"),
        ({"training": settings(quality_negatives=JUDGED, sentence="region")["training"]}, "of patches"),
        ({"training": settings(quality_negatives=JUDGED | {"self_paced": True})["training"]}, "self_paced needs"),
        ({"training": settings(quality_negatives=JUDGED | {"weight": 0.5})["training"]}, "leave it out"),
        ({"training": settings(quality_negatives=COPIES)["training"]}, "truth patch needs the level presence"),
        ({"training": settings(quality_negatives={"kinds": ["dust"]})["training"]}, "blur"),
        (features, "cannot be degraded"),
    ):
        path.write_text(yaml.safe_dump(settings() | change))
        with pytest.raises(RequestError, match=fault):
            read_config(path, AflocTrainConfig)
