"""The scores and losses of AFLoc against slow loops over images, texts, units and places."""

from __future__ import annotations

import math

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


_GATHERS = """
import sys, torch
from wsikit.models.afloc_losses import gathered
rank = int(sys.argv[1])
torch.distributed.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
own = torch.full((2, 1), float(rank), requires_grad=True)
everything = gathered(own)
assert everything.flatten().tolist() == [0, 0, 1, 1]
(everything * torch.arange(1.0, 5.0)[:, None]).sum().backward()
assert own.grad.flatten().tolist() == ([2, 4], [6, 8])[rank], own.grad  # both processes have the same loss
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_see_the_negatives_of_both(tmp_path: object) -> None:
    import subprocess
    import sys

    command = [sys.executable, "-c", _GATHERS]
    running = [subprocess.Popen([*command, str(rank), f"{tmp_path}/meeting"]) for rank in range(2)]
    assert [one.wait(120) for one in running] == [0, 0]
