"""The scores and losses of AFLoc against slow loops over images, texts, units and places."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from wsikit.models.afloc_losses import (
    contrast,
    equal_texts,
    gathered,
    global_scores,
    local_scores,
    published_loss,
    text_codes,
)


def some(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mask_of(lengths: list[int], n: int) -> Tensor:
    return torch.arange(n)[None, :] < torch.tensor(lengths)[:, None]


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()))


def slow_score(places: Tensor, units: Tensor, published: bool, tau1: float, tau2: float) -> float:
    """The score of one image, (L, d), and one text, (n, d), as the equations state it."""
    terms = []
    for k in range(len(units)):
        raised = []
        for place in places:
            if published:
                among = [math.exp(float(place @ unit)) for unit in units]
                weight = among[k] / sum(among)
            else:
                weight = cosine(place, units[k])
            raised.append(math.exp(tau1 * weight))
        context = sum((a / sum(raised) * place for a, place in zip(raised, places)), torch.zeros_like(places[0]))
        terms.append(math.exp(tau2 * cosine(units[k], context)))
    return math.log(sum(terms)) if published else math.log(sum(terms) / len(terms)) / tau2


@pytest.mark.parametrize("published", [True, False])
def test_local_scores_equal_the_slow_loop(published: bool) -> None:
    places, units, lengths = some(3, 5, 4), some(4, 3, 4, seed=1), [3, 1, 2, 3]
    found = local_scores(places, units, mask_of(lengths, 3), attention=4.0, aggregation=5.0, published=published)
    for j in range(3):
        for i, n in enumerate(lengths):
            assert float(found[j, i]) == pytest.approx(slow_score(places[j], units[i, :n], published, 4.0, 5.0))


def test_the_published_loss_equals_the_slow_loop() -> None:
    scores = some(4, 4)
    slow = 0.0
    for i in range(4):
        slow += math.log(sum(math.exp(10 * float(s)) for s in scores[i])) - 10 * float(scores[i, i])
        slow += math.log(sum(math.exp(10 * float(s)) for s in scores[:, i])) - 10 * float(scores[i, i])
    assert float(published_loss(scores)) == pytest.approx(slow / 4)


def test_the_order_of_units_and_of_places_does_not_matter() -> None:
    places, units, mask = some(2, 6, 4), some(2, 3, 4, seed=1), torch.ones(2, 3, dtype=torch.bool)
    expected = local_scores(places, units, mask)
    torch.testing.assert_close(local_scores(places[:, [3, 0, 5, 1, 2, 4]], units[:, [2, 0, 1]], mask), expected)


def test_padding_of_units_and_of_places_does_not_matter() -> None:
    places, units = some(2, 3, 4), some(2, 2, 4, seed=1)
    expected = local_scores(places, units, mask_of([2, 2], 2))
    wide_places = torch.cat([places, some(2, 2, 4, seed=2)], dim=1)
    wide_units = torch.cat([units, some(2, 3, 4, seed=3)], dim=1)
    found = local_scores(wide_places, wide_units, mask_of([2, 2], 5), place_mask=mask_of([3, 3], 5))
    torch.testing.assert_close(found, expected)


def test_texts_in_parts_score_as_at_once() -> None:
    places, units, mask = some(2, 3, 4), some(5, 2, 4, seed=1), mask_of([1, 2, 2, 1, 2], 2)
    torch.testing.assert_close(local_scores(places, units, mask, at_once=2), local_scores(places, units, mask))


def test_long_texts_score_higher_only_in_the_published_form() -> None:
    """Ten times the same unit is no better an answer than one, but the published sum adds log 10."""
    places, unit = some(1, 5, 4), some(1, 1, 4, seed=1)
    long, short = unit.expand(1, 10, 4), torch.ones(1, 1, dtype=torch.bool)
    many = torch.ones(1, 10, dtype=torch.bool)
    assert float(local_scores(places, long, many)) == pytest.approx(float(local_scores(places, unit, short)))
    tenfold = local_scores(places, long, many, published=True, attention=0.0)
    once = local_scores(places, unit, short, published=True, attention=0.0)
    assert float(tenfold - once) == pytest.approx(math.log(10))


def test_a_text_of_one_word_attends_to_its_place_only_in_the_corrected_form() -> None:
    """Where units compete, a single one has weight 1 everywhere, so its attention is uniform and finds nothing."""
    places, unit, mask = (
        torch.eye(4)[None].double(),
        torch.eye(4)[None, :1].double(),
        torch.ones(1, 1, dtype=torch.bool),
    )
    uniform = cosine(places[0].mean(dim=0), unit[0, 0])
    assert float(local_scores(places, unit, mask, published=True)) == pytest.approx(5 * uniform)
    assert float(local_scores(places, unit, mask, attention=10.0)) > uniform + 0.4


def test_repeated_texts_raise_the_loss_only_with_hard_targets() -> None:
    images, texts = some(4, 3), some(4, 3, seed=1)
    scores = global_scores(images, texts)
    twice = global_scores(images.repeat(2, 1), texts.repeat(2, 1))
    names = ["a", "b", "c", "d"]
    soft, soft_twice = (contrast(10 * s, equal_texts(n, n)) for s, n in ((scores, names), (twice, names * 2)))
    assert float(soft_twice) == pytest.approx(float(soft))
    assert float(published_loss(twice)) == pytest.approx(float(published_loss(scores)) + 2 * math.log(2))


def test_equal_reports_of_different_patches_are_not_negatives() -> None:
    logits = torch.tensor([[8.0, 8.0, 0.0], [8.0, 8.0, 0.0], [0.0, 0.0, 8.0]])
    assert float(contrast(logits, equal_texts(*[["normal", "Normal ", "tumour"]] * 2))) < 0.01
    assert float(published_loss(logits, 1.0)) > 0.9


def test_images_and_texts_without_a_partner_are_left_out() -> None:
    logits = some(3, 3)
    positives = torch.eye(3, dtype=torch.bool)
    positives[2, 2] = False
    found = contrast(logits, positives)
    rows, columns = logits[:2].log_softmax(dim=1), logits[:, :2].log_softmax(dim=0)
    assert float(found) == pytest.approx(-float((rows[0, 0] + rows[1, 1] + columns[0, 0] + columns[1, 1]) / 2))
    assert float(contrast(logits, torch.zeros(3, 3, dtype=torch.bool))) == 0.0


def test_temperatures_can_be_learnt() -> None:
    tau = torch.tensor(4.0, dtype=torch.float64, requires_grad=True)
    local_scores(some(2, 3, 4), some(2, 2, 4, seed=1), mask_of([2, 1], 2), attention=tau).sum().backward()
    assert tau.grad is not None
    assert float(tau.grad) != 0


def test_without_processes_nothing_is_gathered() -> None:
    values = some(2, 3)
    assert gathered(values) is values


def test_texts_have_the_same_number_if_they_differ_in_case_and_spaces_only() -> None:
    texts = ["No tumour.", "Fat.", "no  tumour.", "FAT."]
    codes = text_codes(texts)
    assert (codes[:, None] == codes[None, :]).tolist() == equal_texts(texts, texts).tolist()
    assert text_codes([]).shape == (0,)


IMAGES, TEXTS, WORDS = (3, 2), (2, 3), ([2, 1], [3, 1, 2])
"""Numbers of images and texts of each process, and of the words of each text: all differ between the two."""


def parts(rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Places (B, 4, 3), units (T, n, 3) and their mask, of one process."""
    rng = torch.Generator().manual_seed(rank)
    places = torch.randn(IMAGES[rank], 4, 3, generator=rng, dtype=torch.float64)
    n = max(WORDS[rank])
    mask = torch.arange(n)[None, :] < torch.tensor(WORDS[rank])[:, None]
    units = torch.randn(TEXTS[rank], n, 3, generator=rng, dtype=torch.float64) * mask[..., None]
    return places, units, mask


def positives() -> Tensor:
    """Image i of all and text i of all belong together."""
    return torch.eye(sum(IMAGES), dtype=torch.bool)


_LOSS = """
import sys
import numpy as np, torch
sys.path.insert(0, sys.argv[3])
from test_afloc_losses import parts, positives
from wsikit.models.afloc_losses import contrast, gathered, local_scores
rank = int(sys.argv[1])
torch.distributed.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
places, units, mask = parts(rank)
places.requires_grad_(), units.requires_grad_()
scores = local_scores(gathered(places), gathered(units), gathered(mask))
loss = contrast(10 * scores, positives())
loss.backward()
np.savez(f"{sys.argv[2]}-{rank}.npz", loss=loss.detach(), scores=scores.detach(), places=places.grad, units=units.grad)
torch.distributed.destroy_process_group()
"""


def in_two(script: str, folder: Path) -> list[dict[str, np.ndarray]]:
    """Run a script as both processes; what each has saved."""
    command = [sys.executable, "-c", script]
    here = str(Path(__file__).parent)
    running = [subprocess.Popen([*command, str(rank), f"{folder}/meeting", here]) for rank in range(2)]
    try:
        assert [one.wait(240) for one in running] == [0, 0]
    finally:
        for one in running:
            one.kill()
    return [dict(np.load(f"{folder}/meeting-{rank}.npz")) for rank in range(2)]


@pytest.mark.slow
def test_two_processes_have_the_loss_and_gradients_of_one(tmp_path: Path) -> None:
    found = in_two(_LOSS, tmp_path)
    given = [parts(rank) for rank in range(2)]
    images = [place for places, _, _ in given for place in places]
    texts = [unit[: int(known.sum())] for _, units, mask in given for unit, known in zip(units, mask)]
    slow = torch.tensor([[slow_score(image, text, False, 4.0, 5.0) for text in texts] for image in images])
    cross = [-torch.log_softmax(10 * way, dim=1).diagonal().mean() for way in (slow, slow.T)]
    for one in found:
        np.testing.assert_allclose(one["scores"], slow, rtol=1e-5)
        assert float(one["loss"]) == pytest.approx(float(sum(cross)), rel=1e-5)
    places = torch.stack(images).requires_grad_()
    units = torch.zeros(5, 3, 3, dtype=torch.float64)
    for row, text in enumerate(texts):
        units[row, : len(text)] = text
    units.requires_grad_()
    mask = torch.arange(3)[None, :] < torch.tensor([len(text) for text in texts])[:, None]
    contrast(10 * local_scores(places, units, mask), positives()).backward()
    assert places.grad is not None
    assert units.grad is not None
    of_both = np.concatenate([one["places"] for one in found]) / 2  # the mean over the processes
    np.testing.assert_allclose(of_both, places.grad, atol=1e-9)
    np.testing.assert_allclose(found[1]["units"] / 2, units.grad[2:], atol=1e-9)


_LEARNER = """
import sys
from pathlib import Path
import numpy as np, torch
sys.path.insert(0, sys.argv[3] + "/../training/afloc")
from test_run import learner_of, write_data
rank = int(sys.argv[1])
folder = Path(f"{sys.argv[2]}-data-{rank}")
write_data(folder)
torch.distributed.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
learner, _ = learner_of(folder, queue=16)
learner.train()
if rank == 1:  # a process without any report must not wait for the other
    object.__setattr__(learner._statements, "reports", ("",) * 48)
rows = np.arange(48)[rank * 9 : rank * 9 + 8 + rank][:, None]  # unequal numbers of patches
losses = learner.losses(rows, np.random.default_rng(rank))
sum(losses.values()).backward()
gradient = torch.cat([p.grad.flatten() for p in learner.model.heads.parameters() if p.grad is not None])
assert torch.isfinite(gradient).all()
saved = {name: float(value.detach()) for name, value in losses.items()}
np.savez(f"{sys.argv[2]}-{rank}.npz", queued=learner._queued, **saved)
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_both_processes_compare_the_patches_texts_and_reports_of_both(tmp_path: Path) -> None:
    first, second = in_two(_LEARNER, tmp_path)
    for level in ("word", "sentence", "report"):
        assert float(first[level]) == pytest.approx(float(second[level]), rel=1e-5)
        assert float(first[level]) > 0
    assert first["queued"].tolist() == second["queued"].tolist() == [*range(8), *range(9, 17)]
