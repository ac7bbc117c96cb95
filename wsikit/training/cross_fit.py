"""Fit the fusion on patients whom its branches have not seen, and fall back where it does not help.

A branch is more certain on its training patches than on others, so a fusion fitted there learns the wrong weights. Here
the training patients are divided into folds; the branches that predict a fold were trained on the others. On these
predictions are fitted, in this order: a temperature per branch; the gate, with captions swapped between patches so that
it learns to close; and, if asked for, the weights of the patches around. Every step starts from the mean of both
branches and is kept only if it is not worse than that on folds it was not fitted on. Axes: N patches, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from wsikit.errors import RequestError
from wsikit.models.config import FieldTermsConfig
from wsikit.models.field_terms import TERMS, fused_logits, softmax, terms
from wsikit.models.mmlnb import MMLNB
from wsikit.models.prmf_calibrated import CalibratedPRMF, Gate, centred
from wsikit.training.batches import Texts
from wsikit.training.data import PatchSet
from wsikit.training.forward import branch_features, inputs_of, slide_contexts

Floats = npt.NDArray[np.float32]

_AT_ONCE = 256
_SWAPS = 2
"""Swapped captions per patch that the gate is fitted on, drawn once."""
_OWN = (0.8, 0.9, 0.97)
"""Weight of the patches' own captions in fitting the gate; the rest is of swapped ones. The first that does not lose by
more than noise where captions are right is taken: the more swapped ones count, the more certainly the gate closes."""
_TOLERANCE = 0.005
"""Loss that the gate may cost where captions are right, also if its noise is smaller: the price of closing."""
_STEPS, _RATE, _OPENED = 300, 3e-2, 3.0
"""Of the gate: full batches of Adam on its three numbers, and where its second factor begins."""
_PENALTY = 1e-3
"""L2 on the weights of the field."""


@dataclass(frozen=True)
class BranchOutputs:
    """What both branches say about N patches, before calibration."""

    image: Floats
    """(N, C) centred logits."""
    text: Floats
    """(N, C) centred logits; not meaningful where there is no caption."""
    feature: Floats
    """(N, D), what the caption says, in the units of `Surprise`."""
    expected: Floats
    """(N, D), what the image suggests that it says."""
    present: npt.NDArray[np.bool_]
    """(N,), whether there is a caption."""

    def select(self, rows: npt.NDArray[np.integer] | npt.NDArray[np.bool_]) -> BranchOutputs:
        """Only these rows."""
        return BranchOutputs(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))

    def surprise(self, captions: npt.NDArray[np.integer] | None = None) -> Floats:
        """(N,), of each patch's own caption, or of those of the rows `captions` (N,)."""
        feature = self.feature if captions is None else self.feature[captions]
        found: Floats = ((feature - self.expected) ** 2).mean(axis=1)
        return found

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """By name, to be stored."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @classmethod
    def joined(cls, parts: Sequence[BranchOutputs]) -> BranchOutputs:
        """One after the other."""
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in cls.__dataclass_fields__))


@torch.inference_mode()
def branch_outputs(model: MMLNB, data: PatchSet) -> BranchOutputs:
    """Run both branches of a model whose fusion is a `CalibratedPRMF`, in eval mode, over a patch set."""
    fusion = model.fusion
    assert isinstance(fusion, CalibratedPRMF)
    model.eval()
    texts, context = Texts.of(model, data), slide_contexts(model, data)
    device = next(model.parameters()).device
    parts = []
    for first in range(0, len(data), _AT_ONCE):
        rows = np.arange(first, min(first + _AT_ONCE, len(data)))
        inputs = inputs_of(data, texts, context, rows, device)
        v, t = branch_features(model, inputs)
        made = (
            centred(fusion.head_image(fusion.project_image(v))),
            centred(fusion.head_text(t[:, : fusion.d_read])),
            fusion.surprise.whitened(fusion.said(t)),
            fusion.surprise.expected(v),
        )
        image, text, feature, expected = (x.float().cpu().numpy() for x in made)
        parts.append(BranchOutputs(image, text, feature, expected, inputs["present"].cpu().numpy()))
    return BranchOutputs.joined(parts)


def fit_surprise(model: MMLNB, training: PatchSet) -> None:
    """Fit the surprise of captions to the training patches that have one, in closed form."""
    assert isinstance(model.fusion, CalibratedPRMF)
    model.eval()
    texts, context = Texts.of(model, training), slide_contexts(model, training)
    device = next(model.parameters()).device
    found: list[tuple[Tensor, Tensor]] = []
    with torch.inference_mode():
        for first in range(0, len(training), _AT_ONCE):
            rows = np.arange(first, min(first + _AT_ONCE, len(training)))
            inputs = inputs_of(training, texts, context, rows, device)
            v, t = branch_features(model, inputs)
            there = inputs["present"]
            found.append((t[there], v[there]))
    text, image = (torch.cat(parts).clone() for parts in zip(*found, strict=True))
    if len(text):
        model.fusion.surprise.fit(model.fusion.said(text), image)


@dataclass(frozen=True)
class FusionFit:
    """What was fitted, and how good it was on folds it was not fitted on."""

    temperatures: tuple[float, float]
    """Of the image and of the text."""
    kept: str
    """gate, mean or image: what the fusion of a patch by itself is."""
    losses: dict[str, float]
    """Negative log-likelihood of image, mean, gate and field, with right captions, weighted by class, out of fold."""
    field: FieldTermsConfig | None
    """None: not asked for, or not better."""


def fit_fusion(
    fusion: CalibratedPRMF,
    outputs: BranchOutputs,
    data: PatchSet,
    fold: npt.NDArray[np.int64],
    *,
    weight: npt.NDArray[np.float32],
    field_um: float | None = None,
    seed: int = 0,
) -> FusionFit:
    """Fit temperatures, gate and weights of the field in place; the heads are not changed.

    Parameters
    ----------
    outputs
        Of patches of `data` by branches that have not seen their patients.
    fold
        (N,), the fold of each patch; a patient is in one fold.
    weight
        (C,), class weights.
    field_um
        Standard deviation of the field, µm; None: a patch is fused by itself. Needs the places of the patches in µm.
    """
    there = np.flatnonzero(outputs.present)  # a patch without caption has the image's answer, whatever is fitted
    if not len(there):
        fusion.gate.fix(0.0)
        return FusionFit((1.0, 1.0), "image", {}, None)
    folds, patients = fold[there], data.groups[there]
    sample = _Sample.of(outputs.select(there), data.labels[there], weight, seed)
    t_v = _temperature(sample.image[sample.own], sample.labels[sample.own], sample.weight)
    t_t = _temperature(sample.text[sample.own], sample.labels[sample.own], sample.weight)
    fusion.temperature_image.fill_(t_v)
    fusion.temperature_text.fill_(t_t)
    sample = sample.calibrated(t_v, t_t)
    held = np.concatenate([folds] * (1 + _SWAPS))
    ways = {"image": np.zeros(len(held), dtype=np.float32), "mean": np.full(len(held), 0.5, dtype=np.float32)}
    for own in _OWN:
        ways["gate"] = np.empty(len(held), dtype=np.float32)
        for one in np.unique(folds):  # the gate of the rows that it was not fitted on
            ways["gate"][held == one] = _predict(_fit_gate(sample.select(held != one), own), sample.select(held == one))
        kept = _kept(sample, ways, patients)
        if kept == "gate":
            fusion.gate.load_state_dict(_fit_gate(sample, own).state_dict())
            break
    else:
        fusion.gate.fix(float(ways[kept][0]))
    losses = {name: float(sample.own_losses(way).mean()) for name, way in ways.items()}
    field = None
    if field_um is not None:
        image, text = outputs.image / t_v, np.where(outputs.present[:, None], outputs.text / t_t, np.nan)
        gates = np.zeros(len(fold), dtype=np.float32)
        gates[there] = ways[kept][: len(there)]
        field, losses["field"] = _fit_field(image, text, gates, data, fold, sample.weight, field_um)
        if losses["field"] >= losses[kept]:
            field = None
    return FusionFit((t_v, t_t), kept, losses, field)


def _kept(sample: _Sample, ways: dict[str, Floats], patients: npt.NDArray[np.str_]) -> str:
    """The gate, unless with right captions it is worse than the image or the mean by more than noise; then the better
    of these. Noise: 0.005, or two standard errors of the difference of losses, over patients."""
    losses = {name: sample.own_losses(gates) for name, gates in ways.items()}
    best = min(("image", "mean"), key=lambda name: losses[name].mean())
    _, of_row = np.unique(patients, return_inverse=True)
    worse = np.bincount(of_row, losses["gate"] - losses[best]) / (len(of_row) / (of_row.max() + 1))
    noise = 2 * worse.std(ddof=1) / np.sqrt(len(worse)) if len(worse) > 1 else np.inf
    return best if worse.mean() > max(noise, _TOLERANCE) else "gate"


@dataclass(frozen=True)
class _Sample:
    """Patches with their own captions, then the same with those of others."""

    image: Tensor
    text: Tensor
    """(M, C) logits."""
    surprise: Tensor
    """(M,)"""
    labels: Tensor
    """(M,)"""
    own: npt.NDArray[np.bool_]
    """(M,)"""
    weight: Tensor
    """(C,)"""

    @classmethod
    def of(
        cls, outputs: BranchOutputs, labels: npt.NDArray[np.int64], weight: npt.NDArray[np.float32], seed: int
    ) -> _Sample:
        rng = np.random.default_rng(seed)
        n = len(labels)
        orders = [np.arange(n)] + [rng.permutation(n) for _ in range(_SWAPS)]
        of_rows = np.concatenate([np.arange(n)] * len(orders))
        of_captions = np.concatenate(orders)
        return cls(
            torch.from_numpy(outputs.image[of_rows]),
            torch.from_numpy(outputs.text[of_captions]),
            torch.from_numpy(np.concatenate([outputs.surprise(order) for order in orders])),
            torch.from_numpy(labels[of_rows]),
            np.arange(len(of_rows)) < n,
            torch.from_numpy(weight),
        )

    def select(self, rows: npt.NDArray[np.bool_]) -> _Sample:
        there = torch.from_numpy(rows)
        return _Sample(
            self.image[there], self.text[there], self.surprise[there], self.labels[there], self.own[rows], self.weight
        )

    def calibrated(self, image: float, text: float) -> _Sample:
        return _Sample(self.image / image, self.text / text, self.surprise, self.labels, self.own, self.weight)

    def fused(self, gates: Tensor) -> Tensor:
        return self.image + gates[:, None] * (self.text - self.image)

    def share(self, of_own: float) -> Tensor:
        """Weight of each row, (M,), sum 1: by class, and by whether the caption is the patch's own."""
        own = torch.from_numpy(self.own)
        by_class = self.weight[self.labels]
        found = torch.zeros_like(by_class)
        for rows, part in ((own, of_own), (~own, 1 - of_own)):
            found[rows] = part * by_class[rows] / by_class[rows].sum()
        return found

    def each_loss(self, gates: Tensor) -> Tensor:
        return functional.cross_entropy(self.fused(gates), self.labels, reduction="none")

    def own_losses(self, gates: Floats) -> npt.NDArray[np.float64]:
        """Of the patches with their own captions, weighted by class."""
        rows = torch.from_numpy(self.own)
        found = self.each_loss(torch.from_numpy(gates)) * self.weight[self.labels]
        losses: npt.NDArray[np.float64] = found[rows].double().numpy()
        return losses


def _temperature(logits: Tensor, labels: Tensor, weight: Tensor) -> float:
    """The temperature with the lowest loss (Guo et al. 2017)."""
    scale = torch.zeros((), requires_grad=True)
    optimiser = torch.optim.LBFGS([scale], max_iter=50, line_search_fn="strong_wolfe")

    def step() -> Tensor:
        optimiser.zero_grad()
        loss = functional.cross_entropy(logits * scale.exp(), labels, weight=weight)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(step)  # type: ignore[no-untyped-call]
    return float(torch.exp(-scale.detach()).clamp(0.05, 20.0))


def _fit_gate(sample: _Sample, own: float) -> Gate:
    gate = Gate()
    with torch.no_grad():
        gate.offset.fill_(_OPENED)
    share = sample.share(own)
    optimiser = torch.optim.Adam(gate.parameters(), lr=_RATE)
    for _ in range(_STEPS):
        optimiser.zero_grad()
        loss = (sample.each_loss(gate(sample.surprise)) * share).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return gate.eval()


@torch.inference_mode()
def _predict(gate: Gate, sample: _Sample) -> Floats:
    found: Floats = gate(sample.surprise).numpy()
    return found


def _fit_field(
    image: Floats,
    text: Floats,
    gates: Floats,
    data: PatchSet,
    fold: npt.NDArray[np.int64],
    weight: Tensor,
    sd_um: float,
) -> tuple[FieldTermsConfig, float]:
    """Weights of the field, from calibrated logits (N, C), NaN without caption, and the loss of such weights on folds
    they were not fitted on; own captions only."""
    if data.places_um is None:
        raise RequestError(
            "cross_fit.field_um: the patches have no places in µm. Give the columns x and y and the mpp of "
            "the images, or leave field_um out."
        )
    p_v, p_t = softmax(image.astype(np.float64)), softmax(text.astype(np.float64))
    added = np.zeros((len(fold), len(TERMS), image.shape[1]))
    slides = data.slide_ids
    for slide in np.unique(slides):
        rows = np.flatnonzero(slides == slide)
        added[rows] = terms(p_v[rows], p_t[rows], gates[rows], data.places_um[rows], sd_um)
    there = np.isfinite(text).all(axis=1)
    fold, n = fold[there], int(there.sum())
    start = torch.from_numpy(fused_logits(p_v[there], p_t[there], gates[there]))
    offered, labels = torch.from_numpy(added[there]), torch.from_numpy(data.labels[there])
    weight = weight.double()

    def fit(rows: Tensor) -> Tensor:
        weights = torch.zeros(len(TERMS), dtype=torch.float64, requires_grad=True)
        optimiser = torch.optim.LBFGS([weights], max_iter=100, line_search_fn="strong_wolfe")

        def step() -> Tensor:
            optimiser.zero_grad()
            loss = loss_of(weights, rows) + _PENALTY * (weights**2).sum()
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        optimiser.step(step)  # type: ignore[no-untyped-call]
        return weights.detach()

    def loss_of(weights: Tensor, rows: Tensor) -> Tensor:
        logits = start[rows] + torch.einsum("t,ntc->nc", weights, offered[rows])
        return functional.cross_entropy(logits, labels[rows], weight=weight)

    held = torch.from_numpy(fold)
    unseen = [(loss_of(fit(held != one), held == one).item(), int((fold == one).sum())) for one in np.unique(fold)]
    loss = sum(value * count for value, count in unseen) / n
    found = dict(zip(TERMS, fit(torch.ones(n, dtype=torch.bool)).tolist(), strict=True))
    return FieldTermsConfig(sd_um=sd_um, **{name: round(value, 6) for name, value in found.items()}), loss


__all__ = ["BranchOutputs", "FusionFit", "branch_outputs", "fit_fusion", "fit_surprise"]
