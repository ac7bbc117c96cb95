"""The model keeps the contract, and blue patches are "cellular"."""

import numpy as np
from blueness import Blueness

from wsikit.testing import check_model


def test_it_keeps_the_contract_of_a_model() -> None:
    check_model(Blueness.load(None, device="cpu"))


def test_a_blue_patch_is_cellular_and_a_pink_one_is_not() -> None:
    blue, pink = np.full((224, 224, 3), (90, 70, 150)), np.full((224, 224, 3), (230, 150, 190))
    found = Blueness.load(None, device="cpu").predict(np.stack([blue, pink]).astype(np.uint8))["probability"]
    assert found[0, 0] > 0.9
    assert found[1, 0] < 0.1
