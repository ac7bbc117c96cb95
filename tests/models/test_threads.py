"""Batches on several threads: results in order, errors raised, and torch's own threads as before."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from wsikit.models.io import load_model
from wsikit.models.predictor import Predictor
from wsikit.models.threads import map_on_threads


@pytest.fixture(autouse=True)
def four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def threads_seen_by_a_new_thread() -> int:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(torch.get_num_threads).result()


def test_items_run_at_the_same_time_each_with_its_share_of_torchs_threads() -> None:
    both = threading.Barrier(2, timeout=10)

    def run(item: int) -> tuple[int, int]:
        both.wait()
        return item, torch.get_num_threads()

    assert map_on_threads(run, [7, 8]) == [(7, 2), (8, 2)]


def test_torch_has_as_many_threads_afterwards_as_before() -> None:
    assert map_on_threads(abs, list(range(-9, 0))) == list(range(9, 0, -1))
    assert torch.get_num_threads() == 4
    assert threads_seen_by_a_new_thread() == 4


def test_two_callers_at_once_leave_torchs_threads_alone() -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda first: map_on_threads(abs, [first] * 5), range(20)))
    assert found == [[first] * 5 for first in range(20)]
    assert torch.get_num_threads() == 4
    assert threads_seen_by_a_new_thread() == 4


def test_an_error_is_raised_and_what_has_not_begun_is_dropped() -> None:
    done: list[int] = []

    def run(item: int) -> None:
        if item == 0:
            raise ValueError("item 0")
        done.append(item)
        threading.Event().wait(0.02)

    with pytest.raises(ValueError, match="item 0"):
        map_on_threads(run, list(range(200)))
    assert len(done) < 199
    assert torch.get_num_threads() == 4


def test_one_thread_of_torch_is_one_thread() -> None:
    torch.set_num_threads(1)
    assert map_on_threads(lambda _: threading.current_thread(), [1, 2]) == [threading.current_thread()] * 2


def test_predictions_do_not_depend_on_the_number_of_threads() -> None:
    predictor = Predictor(load_model(), device="cpu", batch=24)
    images = np.random.default_rng(0).integers(0, 256, (70, 224, 224, 3), dtype=np.uint8)
    captions = [None if row % 9 == 0 else f"{row} nuclei per mm², neuropil" for row in range(70)]
    on_four = predictor.predict(images, captions)
    torch.set_num_threads(1)
    on_one = predictor.predict(images, captions)
    for name, column in on_one.items():
        np.testing.assert_array_equal(on_four[name], column, err_msg=name)


def test_captions_that_patches_share_are_encoded_once() -> None:
    predictor = Predictor(load_model(), device="cpu")
    images = np.random.default_rng(0).integers(0, 256, (12, 224, 224, 3), dtype=np.uint8)
    captions = ["many small nuclei", "neuropil abundant, no nuclei", None] * 4
    encoded: list[int] = []
    handle = predictor.model.text.register_forward_pre_hook(lambda _, inputs: encoded.append(len(inputs[0])))
    shared = predictor.predict(images, captions)
    handle.remove()
    assert encoded == [2]
    for row, caption in enumerate(captions):
        alone = predictor.predict(images[row : row + 1], [caption])
        for name, column in alone.items():
            np.testing.assert_allclose(shared[name][row], column[0], atol=1e-5, err_msg=name)
