"""Communities fitted to the nodes of a trained network."""

from __future__ import annotations

import numpy as np
import torch

from wsikit.training.cohort.protocol import Part
from wsikit.training.umeml.communities import fit_communities
from wsikit.training.umeml.learner import UmemlLearner
from wsikit.training.umeml.loop import forward
from wsikit.training.umeml.settings import UmemlSettings


def modularity_loss(fitted: object, part: Part) -> float:
    patients = fitted.patients(part)  # type: ignore[attr-defined]
    network = fitted.members[0].network.eval()  # type: ignore[attr-defined]
    with torch.no_grad():
        found = [forward(network, batch) for batch in patients.batches(np.arange(len(part)), together=10**6)]
    return float(torch.cat([one.communities.loss for one in found if one.communities is not None]).mean())


def test_fitted_communities_have_a_lower_loss_and_change_no_prediction(cohort: Part, small: UmemlSettings) -> None:
    train, validation = cohort.take(range(60)), cohort.take(range(60, 90))
    left, fitted = (
        UmemlLearner(small.model_copy(update={"community_starts": starts, "members": 2, "epochs": 1})).fit(
            train, validation, 0
        )
        for starts in (0, 2)
    )
    np.testing.assert_array_equal(left.predict(validation).risk, fitted.predict(validation).risk)
    assert modularity_loss(fitted, validation) < modularity_loss(left, validation)


def test_of_several_starts_the_one_with_the_lowest_loss_is_kept(cohort: Part, small: UmemlSettings) -> None:
    fitted = UmemlLearner(small.model_copy(update={"epochs": 1})).fit(
        cohort.take(range(60)), cohort.take(range(60, 90)), 0
    )
    network, patients = fitted.members[0].network, fitted.patients(cohort)
    losses = [
        fit_communities(network, patients, small.model_copy(update={"community_starts": starts}), seed=0)
        for starts in (1, 3)
    ]
    assert losses[1] <= losses[0]
    assert abs(modularity_loss(fitted, cohort) - losses[1]) < 1e-4
