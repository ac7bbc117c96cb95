"""Training on slide labels from pixels: an image encoder and the network on it, with the loss of the bag.

Each step reads a sample of the patches of each slide; a slide of thousands would not fit into memory. The validation
slides are judged on a fixed sample of theirs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from wsikit.models.encoders import ImageEncoder
from wsikit.models.mil_image import Encode
from wsikit.slides.store import SlideStore
from wsikit.tiling.stream import read_patches
from wsikit.training.mil.cohort import Bag
from wsikit.training.mil.config import MilTrainConfig
from wsikit.training.mil.fit import Fitted, MilEpoch, Targets, bag_losses, new_network

PATCHES = 16
"""Patches per slide and step, where the settings name no number."""
HELD_PATCHES = 48
"""Of each validation slide."""
_READ_AT_ONCE = 256


def pixels_of(bag: Bag, rows: npt.NDArray[np.integer] | None = None) -> npt.NDArray[np.uint8]:
    """Patches of a bag from its store, uint8 (n, P, P, 3); all by default."""
    chosen = np.arange(len(bag.coords)) if rows is None else np.sort(np.asarray(rows))
    with SlideStore(bag.store) as store:
        return read_patches(store, store.patches(bag.grid).grid, bag.coords[chosen]).images


def encoded(bag: Bag, encode: Encode) -> Bag:
    """The bag with the features of all its patches."""
    parts = []
    for first in range(0, len(bag.coords), _READ_AT_ONCE):
        rows = np.arange(first, min(first + _READ_AT_ONCE, len(bag.coords)))
        parts.append(encode(pixels_of(bag, rows)))
    return replace(bag, features=np.concatenate(parts))


def fit_end_to_end(
    training: Sequence[Bag],
    validation: Sequence[Bag],
    config: MilTrainConfig,
    targets: Targets,
    *,
    patch_px: int,
    device: str = "cpu",
    on_epoch: Callable[[MilEpoch], None] = lambda record: None,
) -> tuple[Fitted, ImageEncoder]:
    """Train encoder and network together; return the network and the encoder of the best epoch on validation."""
    assert config.image is not None
    begun = time.perf_counter()
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    settings = config.training
    torch.manual_seed(settings.seed)
    rng = np.random.default_rng(settings.seed)
    encoder = ImageEncoder(config.image, patch_px=patch_px).to(device)
    network = new_network(encoder.width, config, targets).to(device)
    both = torch.nn.ModuleList([encoder, network])
    optimizer = torch.optim.AdamW(both.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    most = settings.patches or PATCHES
    held = [pixels_of(bag, _drawn(len(bag.coords), HELD_PATCHES, np.random.default_rng(0))) for bag in validation]

    def losses(images: Sequence[npt.NDArray[np.uint8]], bags: Sequence[Bag]) -> torch.Tensor:
        features = encoder(torch.as_tensor(np.concatenate(images)).to(device))
        return bag_losses(network, features.split([len(part) for part in images]), bags, config, targets)

    best, kept, state = math.inf, 0, {name: value.clone() for name, value in both.state_dict().items()}
    for epoch in range(settings.epochs):
        both.train()
        order, total = rng.permutation(len(training)), 0.0
        for first in range(0, len(order), settings.batch):
            bags = [training[index] for index in order[first : first + settings.batch]]
            loss = losses([pixels_of(bag, _drawn(len(bag.coords), most, rng)) for bag in bags], bags).mean()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += float(loss.detach()) * len(bags)
        both.eval()
        with torch.inference_mode():
            found = float(np.mean([float(losses([one], [bag])[0]) for one, bag in zip(held, validation, strict=True)]))
        on_epoch(MilEpoch(0, epoch, total / len(order), found))
        if found < best:
            best, kept = found, epoch
            state = {name: value.clone() for name, value in both.state_dict().items()}
        elif epoch - kept >= settings.patience:
            break
    both.load_state_dict(state)
    return Fitted(network.arrays(), kept, best, time.perf_counter() - begun), encoder.cpu().eval()


def _drawn(n: int, most: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    return np.sort(rng.choice(n, min(n, most), replace=False)).astype(np.int64)
