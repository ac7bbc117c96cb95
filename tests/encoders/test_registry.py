"""From a name to an encoder."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from wsikit.encoders.protocol import PatchEncoder
from wsikit.encoders.registry import describe_encoder, load_encoder
from wsikit.errors import ModelError

RNG = np.random.default_rng(7)
PATCHES = RNG.integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)


def test_random_weights_are_the_same_at_each_call_and_declared_as_random() -> None:
    first, second = (load_encoder("random:resnet10t", device="cpu") for _ in range(2))
    assert isinstance(first, PatchEncoder)
    assert np.array_equal(first.encode(PATCHES), second.encode(PATCHES))
    assert "andom weights" in first.info.notice
    assert first.info == describe_encoder("random:resnet10t")


def test_random_weights_do_not_depend_on_the_state_of_torch_nor_change_it() -> None:
    import torch

    torch.manual_seed(1)
    first = load_encoder("random:resnet10t", device="cpu").encode(PATCHES)
    drawn = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), drawn)
    assert np.array_equal(load_encoder("random:resnet10t", device="cpu").encode(PATCHES), first)


def test_a_row_depends_on_its_own_patch_only() -> None:
    encoder = load_encoder("random:resnet10t", device="cpu")
    together = encoder.encode(PATCHES)
    assert together.shape == (3, encoder.info.width)
    assert together.dtype == np.float32
    alone = np.concatenate([encoder.encode(PATCHES[row : row + 1]) for row in range(3)])
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)
    assert encoder.encode(PATCHES[:0]).shape == (0, encoder.info.width)


@pytest.mark.parametrize(
    "images", [PATCHES.astype(np.float32), PATCHES[0], PATCHES[:, :32], PATCHES[..., :1]], ids=lambda a: str(a.shape)
)
def test_what_is_no_batch_of_square_rgb_patches_is_refused(images: np.ndarray) -> None:
    with pytest.raises(ModelError, match="expected uint8"):
        load_encoder("random:resnet10t", device="cpu").encode(images)


@pytest.mark.parametrize("name", ["random:no_such_model", "no-such-encoder", "random:"])
def test_an_unknown_name_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(ModelError) as refused:
        describe_encoder(name)
    assert name.partition(":")[2] in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_registry_is_imported_without_torch() -> None:
    code = "import sys, wsikit.encoders.registry; assert not {'torch', 'timm', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
