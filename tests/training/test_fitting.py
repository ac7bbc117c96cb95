"""Fitting a small network does not pay for the objects of the whole process, and leaves none behind."""

from __future__ import annotations

import gc
import weakref

import torch
from torch import nn

from wsikit.training.fitting import fit
from wsikit.training.settings import FitSettings

SETTINGS = FitSettings(epochs=1, lr=1e-2, weight_decay=0.0, batch=4)


class Line(nn.Module):
    """y = 2x, fitted; it counts the objects that garbage collections pass over while it is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.passed_over = 0

    def forward(self, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        self.passed_over = gc.get_freeze_count()
        x = rows[:, None].float()
        return {"loss": ((self.layer(x) - 2 * x) ** 2).mean()}


def test_collections_pass_over_older_objects_during_the_fit_only() -> None:
    line = Line()
    fit(line, 8, SETTINGS, seed=0)
    assert line.passed_over > 1000
    assert gc.get_freeze_count() == 0


def test_what_was_fitted_is_freed_with_its_last_name() -> None:
    line = Line()
    fit(line, 8, SETTINGS, seed=0)
    gone = weakref.ref(line)
    gc.disable()  # so that only references that the fit left would keep it
    try:
        del line
        assert gone() is None
    finally:
        gc.enable()
