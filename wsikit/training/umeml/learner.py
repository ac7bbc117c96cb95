"""UMEML as a learner of cohorts: fits its tables, trains its networks, predicts patients."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from wsikit.errors import RequestError
from wsikit.models.umeml.config import PatchConfig, UmemlConfig
from wsikit.models.umeml.losses import log_survival
from wsikit.models.umeml.network import UMEML
from wsikit.models.umeml.tokens import GroupTokens
from wsikit.training.cohort.protocol import Part, Prediction
from wsikit.training.cohort.scaling import enough_for_bins
from wsikit.training.cohort.survival_scores import BRIER, FoldTruth
from wsikit.training.umeml.communities import fit_communities
from wsikit.training.umeml.curves import Baseline, fit_baseline
from wsikit.training.umeml.data import Patients, feature_statistics, feature_width
from wsikit.training.umeml.linear_start import LinearStart, counted, direct_columns, fit_linear
from wsikit.training.umeml.loop import Epoch, outputs_of, train_network
from wsikit.training.umeml.settings import UmemlSettings
from wsikit.training.umeml.tables import Tables, fit_tables
from wsikit.training.umeml.targets import CLASSES, SURVIVAL, Tasks, tasks_of

Doubles = npt.NDArray[np.float64]
AT_RISK = 10
"""Patients of the training part under observation until whom curves are compared."""


@dataclass(frozen=True)
class Member:
    """One trained network, with the record of its training."""

    network: UMEML
    start: LinearStart | None
    epochs: tuple[Epoch, ...]
    kept: int
    """Epoch whose weights are kept; 0: the linear start."""


@dataclass(frozen=True)
class FittedUmeml:
    """Trained networks with all that was fitted on the training part."""

    members: tuple[Member, ...]
    tables: Tables
    tasks: Tasks
    settings: UmemlSettings
    baseline: Baseline | None
    """Of the Cox loss."""
    width: int | None
    """Of the patch features; None: slides were not used."""
    device: torch.device

    def patients(self, part: Part) -> Patients:
        """The part as inputs of the networks."""
        return Patients(part, self.tables, self.tasks, width=self.width, device=self.device)

    def predict(self, part: Part) -> Prediction:
        """Predict patients from all their patches; follow-up and labels are not read.

        Curves and probabilities are means over the members. The risk of discrete hazards is −Σ S at the ends of the
        intervals, that of Cox the mean log-risk.
        """
        blind = replace(part, time=None, event=None, labels=None)
        patients, together = self.patients(blind), self.settings.patches.together
        outputs = [outputs_of(member.network, patients, together=together) for member in self.members]
        risk = survival = times = probs = None
        for task in self.tasks.configs:
            found = [one[task.name].double().cpu() for one in outputs]
            if task.kind == "cox":
                risk = _mean([one.squeeze(1) for one in found])
                assert self.baseline is not None
                survival, times = self.baseline.survival(risk), self.baseline.times
            elif task.kind == "survival":
                ends = _mean([log_survival(one).exp() for one in found])
                risk = -ends.sum(axis=1)
                assert self.tasks.shape is not None
                survival, times = self.tasks.shape.survival(ends), self.tasks.shape.times
            else:
                probs = _mean([one.softmax(dim=1) for one in found])
        return Prediction(risk=risk, survival=survival, times=times, probs=probs)


def _mean(values: list[Tensor]) -> Doubles:
    mean: Doubles = torch.stack(values).mean(dim=0).numpy()
    return mean


@dataclass(frozen=True)
class UmemlLearner:
    """Trains UMEML; a `wsikit.training.cohort.protocol.Learner`.

    Slides are used if the training part has bags and `slides` is True; tables of numbers as `settings.tables` says.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> age = rng.normal(50, 10, (80, 1)).astype(np.float32)
    >>> time = rng.exponential(np.exp(-(age[:, 0] - 50) / 10) * 20) + 0.1
    >>> cohort = Part(tuple(map(str, range(80))), {"clinical": age}, {"clinical": ("age",)},
    ...               time=time, event=np.ones(80, bool))
    >>> settings = UmemlSettings(width=16, epochs=2, decoder={"heads": 2}, tables={"clinical": {"heads": 2,
    ...                          "direct": "columns"}})
    >>> fitted = UmemlLearner(settings).fit(cohort.take(range(60)), cohort.take(range(60, 80)), seed=0)
    >>> fitted.predict(cohort).survival.shape
    (80, 60)
    """

    settings: UmemlSettings = UmemlSettings.model_validate({})
    name: str = "UMEML"
    slides: bool = True
    device: str = "cpu"

    def fit(self, train: Part, validation: Part, seed: int) -> FittedUmeml:
        """Train on `train`; the validation part chooses the epoch, the ridge penalty and, if asked for, the loss.

        With `settings.refit` these are then fixed, and the networks trained again on both parts.

        Raises
        ------
        RequestError
            If the settings do not fit the cohort.
        """
        learner = self
        asked = not self.settings.tasks or SURVIVAL in self.settings.tasks
        if self.settings.survival == "chosen" and asked and train.time is not None:
            learner, chosen = self._with_best_curves(train, validation, seed)
        else:
            chosen = self._fit(train, validation, seed, None)
        if not self.settings.refit:
            return chosen
        return learner._fit(joined(train, validation), None, seed, chosen.members)

    def _with_best_curves(self, train: Part, validation: Part, seed: int) -> tuple[UmemlLearner, FittedUmeml]:
        """This learner with the loss of survival whose curves are best on the validation part, and what it fitted."""
        known = [np.flatnonzero(np.isfinite(_time(part))) for part in (train, validation)]
        fitted_on, tested = train.take(known[0]), validation.take(known[1])
        at_risk = min(AT_RISK, len(fitted_on) // 4)
        truth = FoldTruth(_time(fitted_on), _event(fitted_on), _time(tested), _event(tested), at_risk=at_risk)
        found: list[tuple[float, UmemlLearner, FittedUmeml]] = []
        # a small cohort has too few events for ten intervals in some fold: they are no choice there
        possible = [
            choice
            for choice in self.settings.choices
            if choice == "cox" or enough_for_bins(_time(fitted_on), _event(fitted_on), choice)
        ]
        for choice in possible or self.settings.choices:
            loss = {"survival": "cox"} if choice == "cox" else {"survival": "nll", "bins": choice}
            one = replace(self, settings=self.settings.model_copy(update=loss))
            fitted = one._fit(train, validation, seed, None)
            score = truth.scores(fitted.predict(tested))[BRIER]
            # without an event in the validation part the first choice is taken
            found.append((math.inf if score is None else score, one, fitted))
        return min(found, key=lambda tried: tried[0])[1:]

    def _fit(self, train: Part, validation: Part | None, seed: int, fixed: tuple[Member, ...] | None) -> FittedUmeml:
        settings, device = self.settings, torch.device(self.device)
        tables = fit_tables(train, settings.tables, seed=seed)
        tasks = tasks_of(train, settings)
        width = feature_width(train) if self.slides else None
        training = Patients(train, tables, tasks, width=width, device=device)
        checked = None if validation is None else Patients(validation, tables, tasks, width=width, device=device)
        config = network_config(settings, tables, tasks, width)
        needed = settings.patches.start == "centres" or settings.patches.direct == "shares"
        centres = settings.patches.prototypes if needed else 0
        statistics = feature_statistics(training, centres=centres, seed=seed) if width else None
        members = []
        for number in range(settings.members):
            torch.manual_seed(seed * 1000 + number)
            network = UMEML(config).to(device)
            if network.pathology is not None and statistics is not None:
                network.pathology.mean.copy_(statistics.mean)
                network.pathology.scale.copy_(statistics.std)
                if statistics.centres is not None and settings.patches.start == "centres":
                    network.pathology.start_from(statistics.centres.to(device))
                if statistics.centres is not None and network.wide is not None:
                    places = (statistics.centres, statistics.mean, statistics.std)
                    network.wide.start_from(*(one.to(device) for one in places))
                    network.wide.standardise(*counted(network.wide, training, together=settings.patches.together))
            for name, loadings in tables.loadings.items():
                first = network.tokens[name].first
                assert isinstance(first, GroupTokens)
                first.start_from(torch.from_numpy(loadings).to(device))
            before = None if fixed is None else fixed[number]
            start = None
            if settings.linear_start and (config.direct or network.wide is not None):
                penalties = settings.penalties if before is None or before.start is None else (before.start.penalty,)
                together = settings.patches.together
                fitted_to = direct_columns(network, training, together=together), training.targets
                validated = (
                    None if checked is None else (direct_columns(network, checked, together=together), checked.targets)
                )
                start = fit_linear(network, tasks, fitted_to, validated, penalties)
            epochs, kept = train_network(
                network,
                training,
                checked,
                tasks,
                settings,
                seed=seed * 1000 + number,
                start=start,
                stop_after=None if before is None else before.kept,
            )
            if network.communities is not None and settings.community_starts:
                fit_communities(network, training, settings, seed=seed * 1000 + number)
            members.append(Member(network, start, tuple(epochs), kept))
        fitted = FittedUmeml(tuple(members), tables, tasks, settings, None, width, device)
        return replace(fitted, baseline=_baseline(fitted, training)) if tasks.by_batch else fitted


def _time(part: Part) -> Doubles:
    assert part.time is not None  # the learner asks for the loss of survival only where there is follow-up
    return part.time


def _event(part: Part) -> npt.NDArray[np.bool_]:
    assert part.event is not None
    return part.event


def _baseline(fitted: FittedUmeml, training: Patients) -> Baseline:
    outputs = [
        outputs_of(member.network, training, together=fitted.settings.patches.together)[SURVIVAL]
        for member in fitted.members
    ]
    risk = _mean([one.double().cpu().squeeze(1) for one in outputs])
    time, event = training.targets.time.cpu().numpy(), training.targets.event.cpu().numpy()
    known = np.isfinite(time)
    return fit_baseline(risk[known], time[known], event[known])


def network_config(settings: UmemlSettings, tables: Tables, tasks: Tasks, width: int | None) -> UmemlConfig:
    """The network of these settings for these tables and tasks.

    Raises
    ------
    RequestError
        If they do not fit together.
    """
    patches = None
    if width is not None:
        own = settings.patches.model_dump(exclude={"most", "together", "start", "direct"})
        centres = settings.patches.prototypes if settings.patches.direct == "shares" else 0
        patches = PatchConfig(width=width, centres=centres, **own)
    try:
        return UmemlConfig(
            width=settings.width,
            patches=patches,
            tokens={name: one.config for name, one in tables.tokens.items()},
            sources=tables.sources,
            direct=tables.owners,
            products=settings.products,
            modularity=settings.modularity,
            decoder=settings.decoder,
            tasks=tasks.configs,
            modality_dropout=settings.modality_dropout,
        )
    except ValueError as error:
        reason = str(error).splitlines()[-2 if "For further" in str(error) else -1].strip()
        raise RequestError(f"umeml: {reason}; change these settings.") from error


def joined(first: Part, second: Part) -> Part:
    """The patients of both parts, which are of one cohort."""

    def both(a: npt.NDArray[np.generic] | None, b: npt.NDArray[np.generic] | None) -> npt.NDArray[np.generic] | None:
        return None if a is None or b is None else np.concatenate([a, b])

    return replace(
        first,
        ids=first.ids + second.ids,
        columns={name: np.concatenate([values, second.columns[name]]) for name, values in first.columns.items()},
        bags=None if first.bags is None or second.bags is None else first.bags + second.bags,
        time=both(first.time, second.time),  # type: ignore[arg-type]
        event=both(first.event, second.event),  # type: ignore[arg-type]
        labels=both(first.labels, second.labels),  # type: ignore[arg-type]
    )


__all__ = ["CLASSES", "SURVIVAL", "FittedUmeml", "Member", "UmemlLearner", "joined", "network_config"]
