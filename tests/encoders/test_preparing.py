"""Patches are prepared as the models' own processors do it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from wsikit.encoders.preparing import prepared, resized
from wsikit.encoders.resampling import by_matrices, resize
from wsikit.encoders.transform import Transform
from wsikit.errors import ModelError

RNG = np.random.default_rng(3)
PILLOW = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def patches(side: int) -> np.ndarray:
    """Two patches: noise, and smooth colours with an edge."""
    y, x = np.mgrid[:side, :side] / side
    smooth = np.stack([x, y, (x > y) * 1.0], axis=2) * 255
    return np.stack([RNG.integers(0, 256, (side, side, 3)), smooth]).astype(np.uint8)


def pixels(values: Any, transform: Transform) -> np.ndarray:
    """Normalised images back to 0–1."""
    array = np.asarray(values, np.float64)
    mean, std = (np.array(three).reshape(1, 3, 1, 1) for three in (transform.mean, transform.std))
    return array * std + mean


def ours(images: np.ndarray, transform: Transform) -> np.ndarray:
    return pixels(prepared(torch.from_numpy(images), transform), transform)


@pytest.mark.parametrize("side", [150, 224, 256, 333])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("share", [1.0, 0.875])
def test_as_the_transform_of_timm(side: int, interpolation: str, share: float) -> None:
    from timm.data.transforms_factory import create_transform

    from wsikit.encoders.configs import timm_transform

    config = {"input_size": (3, 224, 224), "crop_pct": share, "interpolation": interpolation,
              "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)}  # fmt: skip
    images = patches(side)
    create: Any = create_transform
    theirs = create(**config, is_training=False)
    expected = np.stack([theirs(Image.fromarray(image)).numpy() for image in images])
    transform = timm_transform(config)
    assert np.abs(ours(images, transform) - pixels(expected, transform)).max() <= 1e-6


@pytest.mark.parametrize("side", [150, 224, 256, 300])
@pytest.mark.parametrize(
    "kind", ["CLIPImageProcessor", "BitImageProcessor", "ViTImageProcessor", "SiglipImageProcessor"]
)
def test_as_the_processors_of_transformers(kind: str, side: int, tmp_path: Any) -> None:
    import transformers

    from wsikit.encoders.configs import transform_in

    made = getattr(transformers, f"{kind}Pil", None)
    if made is None:
        pytest.skip("this transformers has no processor by Pillow")
    processor = made(
        **(
            {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}}
            if kind == "BitImageProcessor"
            else {}
        )
    )
    processor.save_pretrained(tmp_path)
    images = patches(side)
    expected = processor([Image.fromarray(image) for image in images], return_tensors="np")["pixel_values"]
    transform = transform_in(tmp_path)
    assert np.abs(ours(images, transform) - pixels(expected, transform)).max() <= 1e-6


@pytest.mark.parametrize("side", [63, 150, 256, 333, 448])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_pixels_are_those_of_pillow_by_matrices_too(side: int, interpolation: Any) -> None:
    images = torch.from_numpy(patches(side))
    expected = np.stack(
        [np.asarray(Image.fromarray(image).resize((224, 224), PILLOW[interpolation])) for image in images.numpy()]
    )
    assert np.array_equal(resize(images, 224, interpolation).numpy(), expected)
    assert np.array_equal(by_matrices(images, 224, interpolation).numpy(), expected)


def test_a_patch_of_the_right_side_is_not_resized_and_its_centre_is_cut_out() -> None:
    images = patches(256)
    cut = resized(torch.from_numpy(images), Transform(crop=224, resize=256, interpolation="bicubic"))
    assert np.array_equal(cut.permute(0, 2, 3, 1).numpy(), images[:, 16:240, 16:240])


def test_normalisation_leaves_the_patches_as_they_are() -> None:
    images = torch.from_numpy(patches(64))
    before = images.clone()
    prepared(images, Transform(crop=64))
    assert torch.equal(images, before)


@pytest.mark.parametrize("wrong", [{"crop": 224, "resize": 200}, {"std": (0.1, 0.0, 0.1)}, {"interpolation": "area"}])
def test_a_transform_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="expected"):
        Transform(**wrong)
