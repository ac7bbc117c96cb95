"""Losses of MIRROR in UMEML's training: what they ask for, whom they count, and that nothing of them is left."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from wsikit.errors import RequestError
from wsikit.models.umeml.config import UmemlConfig
from wsikit.models.umeml.network import UMEML, UmemlOutput
from wsikit.training.cohort.protocol import Part
from wsikit.training.umeml.learner import UmemlLearner
from wsikit.training.umeml.mirror import MirrorLosses
from wsikit.training.umeml.settings import MirrorSettings, UmemlSettings

CONFIG = UmemlConfig.model_validate(
    {
        "width": 16,
        "patches": {"width": 4, "prototypes": 3, "heads": 2},
        "tokens": {"genes": {"kind": "row", "columns": 3, "heads": 2}},
        "decoder": {"heads": 2, "drop": 0.0},
        "modality_dropout": 0.0,
        "tasks": [{"name": "survival", "kind": "cox", "outputs": 1}],
    }
)


@pytest.fixture
def found() -> UmemlOutput:
    """40 patients whose second tokens are their prototypes in another order."""
    torch.manual_seed(0)
    network = UMEML(CONFIG)
    made = network(torch.randn(40, 5, 4), None, {"genes": torch.randn(40, 3)})
    nodes = torch.randn(40, 3, 16)
    return replace(made, nodes=torch.cat([nodes, nodes.flip(1)], dim=1))


def losses(**settings: float) -> MirrorLosses:
    torch.manual_seed(1)
    return MirrorLosses(MirrorSettings.model_validate(settings), CONFIG)


def test_masked_tokens_of_one_modality_are_reconstructed_from_the_other(found: UmemlOutput) -> None:
    """One of three tokens of each is masked, and its copy is mostly there; an unknown one costs 1 in each modality."""
    network, one = UMEML(CONFIG), losses(retention=1.0, masked=0.3)
    optimiser = torch.optim.Adam([*network.decoder.parameters(), *one.parameters()], lr=5e-3)
    for _ in range(250):
        optimiser.zero_grad()
        loss = one(network, found)
        loss.backward()
        optimiser.step()
    assert float(loss.detach()) < 1.3  # of 2


def test_assignments_of_equal_modalities_do_not_differ(found: UmemlOutput) -> None:
    network, one = UMEML(CONFIG), losses(cluster=1.0)
    assert one(network, found).item() == pytest.approx(0, abs=1e-6)
    apart = replace(found, nodes=torch.cat([found.nodes[:, :3], torch.randn(40, 3, 16)], dim=1))
    assert one(network, apart).item() > 0.5


def test_patients_with_one_modality_do_not_count(found: UmemlOutput) -> None:
    network, one = UMEML(CONFIG), losses(cluster=1.0)
    apart = found.nodes.clone()
    apart[0, 3:] = 9 * torch.randn(3, 16)
    mask = found.node_mask.clone()
    mask[0, 3:] = False
    assert one(network, replace(found, nodes=apart, node_mask=mask)).item() == pytest.approx(0, abs=1e-6)
    nothing = replace(found, node_mask=torch.zeros_like(mask))
    for each in (one, losses(retention=1.0)):
        assert each(network, nothing).item() == 0


def test_the_trained_network_is_another_and_holds_nothing_of_the_losses(cohort: Part, small: UmemlSettings) -> None:
    train, validation = cohort.take(range(70)), cohort.take(range(70, 90))
    without = UmemlLearner(small).fit(train, validation, 0)
    mirrored = small.model_copy(update={"mirror": MirrorSettings(retention=0.1, cluster=0.2)})
    fitted = UmemlLearner(mirrored).fit(train, validation, 0)
    assert [*fitted.members[0].network.state_dict()] == [*without.members[0].network.state_dict()]
    one, other = (each.predict(validation).risk for each in (fitted, without))
    assert one is not None
    assert other is not None
    assert not np.allclose(one, other)


def test_a_cohort_without_slides_is_refused(cohort: Part, small: UmemlSettings) -> None:
    mirrored = small.model_copy(update={"mirror": MirrorSettings(cluster=0.2)})
    train, validation = (cohort.take(rows).only(["clinical", "rna"]) for rows in (range(70), range(70, 90)))
    with pytest.raises(RequestError, match="mirror: needs slides and tables"):
        UmemlLearner(mirrored).fit(train, validation, 0)
