"""The captioner keeps the contract, and its facts are true of pictures whose colours are known."""

import numpy as np
from colour_words import make

from wsikit.testing import check_captioner


def test_it_keeps_the_contract_of_a_captioner() -> None:
    check_captioner(make(None, device="cpu"))


def test_a_patch_that_is_half_blue_is_described_so() -> None:
    patch = np.full((1, 64, 64, 3), 255, np.uint8)
    patch[:, :32] = 60, 60, 160
    (caption,) = make(None, device="cpu").caption(patch, mpp=0.5)
    assert caption.facts["blue_share"] == 0.5
    assert caption.text == "Blue abundant, pink absent."
