"""One hidden layer on standardised features: AdamW and dropout in NumPy, the epoch chosen on the validation part."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from wsikit.models.head import softmax
from wsikit.training.heads.config import MlpSettings
from wsikit.training.heads.fits import Fitted, Floats, Labels, log_loss, standard, weights_of

_BETAS = (0.9, 0.999)
Weights = dict[str, npt.NDArray[np.float32]]


def fit_mlp(
    features: Floats,
    labels: Labels,
    validation: tuple[Floats, Labels],
    *,
    n_classes: int,
    settings: MlpSettings,
    seed: int = 0,
) -> Fitted:
    """Fit on training features (N, D) and labels (N,); `validation` are those of other patients. Equal seeds give
    equal weights."""
    mean, scale = standard(features)
    z = (features - mean) / scale
    held, truth = (validation[0] - mean) / scale, validation[1]
    weights = weights_of(labels, n_classes, settings.class_weights).astype(np.float32)
    held_weights = weights_of(truth, n_classes, settings.class_weights)
    rng = np.random.default_rng(seed)
    net = _initial(z.shape[1], settings.hidden, n_classes, rng)
    optimiser = _AdamW(net, settings)
    kept, kept_epoch, curve = {name: value.copy() for name, value in net.items()}, -1, []
    for epoch in range(settings.epochs):
        for rows in np.array_split(rng.permutation(len(z)), max(1, round(len(z) / settings.batch))):
            optimiser.step(_gradients(net, z[rows], labels[rows], weights[rows], settings.dropout, rng))
        curve.append(log_loss(softmax(_logits(net, held)), truth, held_weights))
        if curve[-1] == min(curve):
            kept, kept_epoch = {name: value.copy() for name, value in net.items()}, epoch
        elif epoch - kept_epoch >= settings.patience:
            break
    selection = {
        "epoch": kept_epoch,
        "chosen_by": "loss on the validation part",
        "curve": [round(loss, 5) for loss in curve],
    }
    notes: tuple[str, ...] = ()
    if kept_epoch == settings.epochs - 1:
        notes = (f"the validation loss still fell in the last of {settings.epochs} epochs; more may be better.",)
    return Fitted({"mean": mean, "scale": scale, **kept}, selection, notes=notes)


def _initial(d: int, hidden: int, n_classes: int, rng: np.random.Generator) -> Weights:
    """He initialisation for the hidden layer, zeros for the output: the first prediction is uniform."""
    return {
        "weight1": (rng.standard_normal((d, hidden)) * np.sqrt(2 / d)).astype(np.float32),
        "bias1": np.zeros(hidden, np.float32),
        "weight2": np.zeros((hidden, n_classes), np.float32),
        "bias2": np.zeros(n_classes, np.float32),
    }


def _logits(net: Weights, z: Floats) -> npt.NDArray[np.float64]:
    hidden = np.maximum(z @ net["weight1"] + net["bias1"], 0)
    return np.asarray(hidden @ net["weight2"] + net["bias2"], dtype=np.float64)


def _gradients(
    net: Weights, z: Floats, labels: Labels, weights: Floats, dropout: float, rng: np.random.Generator
) -> Weights:
    """Gradients of the weighted mean loss of a batch."""
    hidden = np.maximum(z @ net["weight1"] + net["bias1"], 0)
    keep = ((rng.random(hidden.shape, dtype=np.float32) >= dropout) / (1 - dropout)).astype(np.float32)
    dropped = hidden * keep
    error = softmax((dropped @ net["weight2"] + net["bias2"]).astype(np.float64))
    error[np.arange(len(labels)), labels] -= 1
    error *= (weights / len(labels))[:, None]
    back = error.astype(np.float32)
    inner = (back @ net["weight2"].T) * keep * (hidden > 0)
    return {"weight1": z.T @ inner, "bias1": inner.sum(axis=0), "weight2": dropped.T @ back, "bias2": back.sum(axis=0)}


class _AdamW:
    """Adam with decoupled weight decay of matrices; changes the arrays in place."""

    def __init__(self, net: Weights, settings: MlpSettings) -> None:
        self._net, self._settings, self._steps = net, settings, 0
        self._mean = {name: np.zeros_like(value) for name, value in net.items()}
        self._square = {name: np.zeros_like(value) for name, value in net.items()}

    def step(self, gradients: Weights) -> None:
        self._steps += 1
        first, second = _BETAS
        lr = self._settings.lr
        for name, gradient in gradients.items():
            mean, square, value = self._mean[name], self._square[name], self._net[name]
            mean *= first
            mean += (1 - first) * gradient
            square *= second
            square += (1 - second) * np.square(gradient)
            size = lr * np.sqrt(1 - second**self._steps) / (1 - first**self._steps)
            if value.ndim == 2:
                value *= 1 - lr * self._settings.weight_decay
            value -= size * mean / (np.sqrt(square) + 1e-8)
