"""Communities of a trained UMEML: their centres fitted to its nodes by the modularity loss alone.

In the training this loss is a small term, and the epoch is chosen by the tasks, so that the centres may be far from an
optimum, or, after an early stop, where they started.
"""

from __future__ import annotations

import numpy as np
import torch

from wsikit.models.umeml.network import UMEML
from wsikit.training.umeml.data import Patients
from wsikit.training.umeml.loop import forward
from wsikit.training.umeml.settings import UmemlSettings

PATIENTS, STEPS, RATE = 128, 150, 0.05
"""Patients of the training part whose nodes are used, drawn at random; steps of Adam, and its rate."""


def fit_communities(network: UMEML, training: Patients, settings: UmemlSettings, *, seed: int) -> float:
    """Replace the centres by those of the lowest loss among `settings.community_starts` fits; return that loss.

    Nodes are constants, so nothing else changes, and no prediction does.
    """
    communities = network.communities
    assert communities is not None
    rows = np.sort(np.random.default_rng(seed).permutation(len(training))[:PATIENTS])
    draw = (seed, 0)
    network.eval()
    with torch.no_grad():
        batches = training.batches(rows, together=settings.patches.together, most=settings.patches.most, draw=draw)
        given = [forward(network, batch) for batch in batches]
    given = [one for one in given if one.nodes.shape[1] > 1]
    if not given:
        return 0.0
    best, kept = float("inf"), communities.centres.detach().clone()
    for start in range(settings.community_starts):
        torch.manual_seed(seed * 1000 + start)
        torch.nn.init.normal_(communities.centres)
        optimiser = torch.optim.Adam([communities.centres], lr=RATE)
        for _ in range(STEPS):
            optimiser.zero_grad()
            terms = [communities(one.nodes, one.node_mask, one.is_prototype).loss for one in given]
            loss = torch.cat(terms).mean()
            if float(loss.detach()) < best:
                best, kept = float(loss.detach()), communities.centres.detach().clone()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    with torch.no_grad():
        communities.centres.copy_(kept)
    return best
