"""Which network a configuration asks for: its settings, its learner, and how a trained one is saved.

Networks are named by place, so that a wrong configuration is refused before torch is imported.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from wsikit.errors import RequestError
from wsikit.setting_faults import faults_in_words
from wsikit.training.cohort.config import BASELINES_ONLY, CohortTrainConfig
from wsikit.training.cohort.protocol import FittedLearner, Learner, Part


@dataclass(frozen=True)
class Network:
    """Where the parts of a network are, each as `module:name`."""

    settings: str
    """A pydantic model; the section of the configuration that is named as the architecture is given to it."""
    learner: str
    """Called with the settings and `device=`; a `Learner`."""
    save: str
    """Called with a fitted learner and a new folder."""
    load: str
    """Called with such a folder and `device=`; the fitted learner."""
    explain: str
    """Called with a fitted learner and a part; one dataclass per patient."""
    page: str | None = None
    """Called as `wsikit.training.umeml.pages.write_page`; None: there is no page of a patient."""


NETWORKS = {
    "umeml": Network(
        "wsikit.training.umeml.settings:UmemlSettings",
        "wsikit.training.umeml.learner:UmemlLearner",
        "wsikit.training.umeml.folder:save_umeml",
        "wsikit.training.umeml.folder:load_umeml",
        "wsikit.training.umeml.views:explain",
        "wsikit.training.umeml.pages:write_page",
    )
}
ARCHITECTURES = (*NETWORKS, BASELINES_ONLY)
"""Values of `architecture` that are trained on a cohort."""


def check_settings(config: CohortTrainConfig) -> Any:
    """The checked settings of the network, None for baselines alone. No torch is imported.

    Raises
    ------
    RequestError
        The architecture is not known, or its settings are wrong.
    """
    if config.architecture not in ARCHITECTURES:
        raise RequestError(f"architecture {config.architecture!r}: for cohorts there are {', '.join(ARCHITECTURES)}.")
    if config.architecture == BASELINES_ONLY:
        if not config.baselines:
            raise RequestError("architecture baselines with baselines: false leaves nothing to do.")
        return None
    kind = _named(NETWORKS[config.architecture].settings)
    try:
        return kind.model_validate(getattr(config, config.architecture))
    except ValidationError as error:
        raise RequestError(f"{config.architecture}: {faults_in_words(error, kind)}.") from error


def make_network(config: CohortTrainConfig, *, device: str) -> Learner | None:
    """The learner of the network; None for baselines alone."""
    settings = check_settings(config)
    if settings is None:
        return None
    learner: Learner = _named(NETWORKS[config.architecture].learner)(settings, device=device)
    return learner


def save_network(architecture: str, fitted: FittedLearner, folder: Path) -> None:
    """Write a trained network into a new folder."""
    _named(NETWORKS[architecture].save)(fitted, folder)


def load_network(architecture: str, folder: Path, *, device: str) -> FittedLearner:
    """Read a trained network from its folder."""
    fitted: FittedLearner = _named(NETWORKS[architecture].load)(folder, device=device)
    return fitted


def explain_patients(architecture: str, fitted: FittedLearner, part: Part) -> list[Any]:
    """What a network made of each patient, as its own dataclass."""
    found: list[Any] = _named(NETWORKS[architecture].explain)(fitted, part)
    return found


def page_writer(architecture: str) -> Callable[..., Path] | None:
    """What writes a patient's page, as `wsikit.training.umeml.pages.write_page`; None: the network has none."""
    place = NETWORKS[architecture].page
    writer: Callable[..., Path] | None = None if place is None else _named(place)
    return writer


def _named(place: str) -> Any:
    module, name = place.split(":")
    return getattr(importlib.import_module(module), name)
