"""Numbers of captions for the text branch: of a patch set, as a model reads them; the bins of a model, learnt once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from wsikit.errors import RequestError
from wsikit.facts import FACTS
from wsikit.models.config import ModelConfig
from wsikit.models.mmlnb import MMLNB
from wsikit.models.slide_context import STATISTICS, number_columns
from wsikit.training.data import PatchSet


def facts_at(mpp: float) -> tuple[str, ...]:
    """Names of the facts that are measured at `mpp` µm per pixel.

    >>> "rosette_like" in facts_at(0.5), "rosette_like" in facts_at(4.0)
    (True, False)
    """
    return tuple(name for name, fact in FACTS.items() if fact.finest_mpp < mpp <= fact.coarsest_mpp)


def numbers_of(config: ModelConfig, data: PatchSet) -> npt.NDArray[np.float32] | None:
    """The numbers of a patch set as a model reads them, float32 (N, 2, C); None for a model that reads none.

    A fact that the patch set does not have is missing (NaN).
    """
    numbers = config.numbers
    if numbers is None:
        return None
    n, width = len(data), len(numbers.facts)
    values = np.full((n, width), np.nan, dtype=np.float32)
    spread = np.zeros((n, width), dtype=np.float32)
    slides = np.full((n, width, len(STATISTICS)), np.nan, dtype=np.float32)
    around = np.full((n, width), np.nan, dtype=np.float32)
    places = {name: column for column, name in enumerate(data.fact_names)}
    for column, name in enumerate(numbers.facts):
        if name in places and data.facts is not None:
            values[:, column] = data.facts[:, places[name]]
            if data.fact_uncertainty is not None:
                spread[:, column] = data.fact_uncertainty[:, places[name]]
            if data.slide_facts is not None:
                slides[:, column] = data.slide_facts[:, places[name]]
            if data.around is not None:
                around[:, column] = data.around[:, places[name]]
    in_field = numbers.field_um is not None
    return number_columns(values, spread, slides, in_slide=numbers.in_slide, around=around, in_field=in_field)


def learn_bins(model: MMLNB, training: PatchSet) -> None:
    """Learn the bins of a model that reads numbers from the training patches; nothing is done if they were learnt
    before, or if the patches have no numbers (an image branch is trained without captions).

    Raises
    ------
    RequestError
        The training patches have captions, but no fact that the model reads.
    """
    if model.numbers is None or model.numbers.learnt:
        return
    found = numbers_of(model.config, training)
    assert found is not None
    assert model.config.numbers is not None
    if np.isfinite(found[:, 0]).any():
        model.numbers.learn_bins(found)
    elif any(training.captions):
        raise RequestError(
            f"numbers: the captions of the training patches state none of {', '.join(model.config.numbers.facts)}. Use "
            "a captioner that measures facts, or name facts that the captions state."
        )
