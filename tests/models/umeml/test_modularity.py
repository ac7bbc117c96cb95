"""The modularity loss of UMEML against networkx, closed forms and a planted graph."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score
from torch import Tensor

from wsikit.models.umeml.config import ModularityConfig
from wsikit.models.umeml.modularity import CommunityLoss, collapse, cosine_graph, modularity, modularity_matrix


def some(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def hard(labels: Tensor, communities: int) -> Tensor:
    return torch.nn.functional.one_hot(labels, communities).T.double()[None]


def test_the_modularity_of_a_hard_assignment_is_that_of_networkx_with_weights() -> None:
    adjacency = cosine_graph(some(1, 12, 4), torch.ones(1, 12, dtype=torch.bool))
    labels = torch.arange(12) % 3
    graph = nx.from_numpy_array(adjacency[0].numpy())
    parts = [set(torch.nonzero(labels == c).flatten().tolist()) for c in range(3)]
    expected = nx.community.modularity(graph, parts, weight="weight")
    assert modularity(adjacency, hard(labels, 3)).item() == pytest.approx(expected, abs=1e-12)


def test_a_loop_counts_twice_in_networkx_and_as_its_entry_twice_here() -> None:
    """networkx adds a loop of weight w as 2 w to the degree; the matrix whose diagonal is 2 w agrees with it."""
    graph = nx.Graph([(0, 1), (1, 2)])
    graph.add_edge(0, 0, weight=1.5)
    adjacency = torch.tensor([[3.0, 1.0, 0.0], [1.0, 0.0, 1.0], [0.0, 1.0, 0.0]], dtype=torch.float64)[None]
    expected = nx.community.modularity(graph, [{0, 1}, {2}], weight="weight")
    assert modularity(adjacency, hard(torch.tensor([0, 0, 1]), 2)).item() == pytest.approx(expected, abs=1e-12)


def test_the_loss_of_one_view_is_minus_the_modularity() -> None:
    loss = CommunityLoss(ModularityConfig(alpha=1, beta=0, collapse=0, communities=3), 4).double()
    nodes, mask = some(2, 7, 4), torch.ones(2, 7, dtype=torch.bool)
    found = loss(nodes, mask, torch.arange(7) < 3)
    torch.testing.assert_close(found.loss, -modularity(found.adjacency, found.pathology))
    torch.testing.assert_close(found.pathology.sum(dim=1), torch.ones(2, 7, dtype=torch.float64))


def test_rows_of_the_modularity_matrix_sum_to_zero_and_equal_shares_have_none() -> None:
    adjacency = cosine_graph(some(1, 9, 5), torch.ones(1, 9, dtype=torch.bool))
    W, twice_edges = modularity_matrix(adjacency)
    assert float(W.sum(dim=2).abs().max()) < 1e-12
    assert twice_edges.item() == pytest.approx(adjacency.sum().item())
    assert modularity(adjacency, torch.full((1, 4, 9), 0.25, dtype=torch.float64)).abs().item() < 1e-12


def test_a_graph_without_edges_costs_nothing_and_has_gradients() -> None:
    loss = CommunityLoss(ModularityConfig(communities=2, collapse=0), 2)
    nodes = torch.tensor([[[1.0, 0.0], [-1.0, 0.0], [0.0, 0.0]]], requires_grad=True)
    found = loss(nodes, torch.ones(1, 3, dtype=torch.bool), torch.tensor([True, True, False]))
    found.loss.sum().backward()
    assert found.loss.item() == 0.0
    assert nodes.grad is not None
    assert bool(torch.isfinite(nodes.grad).all())


def test_masked_nodes_change_nothing() -> None:
    loss = CommunityLoss(ModularityConfig(communities=3), 4).double()
    nodes, kind = some(1, 6, 4), torch.arange(6) < 3
    alone = loss(nodes, torch.ones(1, 6, dtype=torch.bool), kind).loss
    padded = torch.cat([nodes, some(1, 2, 4, seed=1)], dim=1)
    mask = torch.tensor([[True] * 6 + [False] * 2])
    torch.testing.assert_close(loss(padded, mask, torch.cat([kind, ~kind[3:5]])).loss, alone)


def test_blocks_leave_out_the_edges_between_the_modalities() -> None:
    """In "blocks" each trace is over the nodes of one modality, with the expectation of the whole graph."""
    loss = CommunityLoss(ModularityConfig(variant="blocks", communities=3, collapse=0), 4).double()
    nodes, kind = some(1, 8, 4), torch.arange(8) < 5
    found = loss(nodes, torch.ones(1, 8, dtype=torch.bool), kind)
    W, twice_edges = modularity_matrix(found.adjacency)
    S = loss.assign(nodes, 0)[0]
    expected = 0.0
    for i in range(8):
        for j in range(8):
            if bool(kind[i] == kind[j]):
                expected -= (W[0, i, j] * (S[:, i] @ S[:, j]) / twice_edges).item()
    assert found.loss.item() == pytest.approx(expected, abs=1e-12)


def test_the_collapse_term_is_zero_for_equal_sizes_and_root_c_minus_one_for_one_community() -> None:
    mask = torch.ones(1, 8, dtype=torch.bool)
    assert collapse(hard(torch.arange(8) % 4, 4), mask).item() == pytest.approx(0.0)
    assert collapse(hard(torch.zeros(8, dtype=torch.long), 4), mask).item() == pytest.approx(1.0)


def test_the_graph_is_a_constant_by_default() -> None:
    nodes = some(1, 5, 3).requires_grad_()
    mask, kind = torch.ones(1, 5, dtype=torch.bool), torch.arange(5) < 2
    for detach in (True, False):
        loss = CommunityLoss(ModularityConfig(detach=detach, communities=2), 3).double()
        assert loss(nodes, mask, kind).adjacency.requires_grad is not detach


def test_cosines_up_to_the_least_are_no_edges() -> None:
    nodes, mask = some(1, 6, 4), torch.ones(1, 6, dtype=torch.bool)
    every, strong = cosine_graph(nodes, mask), cosine_graph(nodes, mask, least=0.3)
    torch.testing.assert_close(strong, (every - 0.3).relu())
    assert 0 < int((strong > 0).sum()) < int((every > 0).sum())
    config = ModularityConfig(communities=2, least=0.3)
    found = CommunityLoss(config, 4).double()(nodes, mask, torch.arange(6) < 3)
    torch.testing.assert_close(found.adjacency, strong)


@pytest.mark.parametrize("variant", ["views", "blocks"])
def test_a_planted_graph_of_two_blocks_is_recovered(variant: str) -> None:
    rng = np.random.default_rng(0)
    truth = np.arange(24) % 2
    nodes = torch.tensor(np.eye(2)[truth] @ rng.normal(size=(2, 8)) + 0.3 * rng.normal(size=(24, 8)))[None]
    torch.manual_seed(0)
    config = ModularityConfig(communities=2, variant=variant, temperature=0.5)  # type: ignore[arg-type]
    loss = CommunityLoss(config, 8).double()
    optimiser = torch.optim.Adam(loss.parameters(), lr=0.05)
    mask, kind = torch.ones(1, 24, dtype=torch.bool), torch.arange(24) < 12
    for _ in range(100):
        optimiser.zero_grad()
        found = loss(nodes, mask, kind)
        found.loss.sum().backward()
        optimiser.step()
    shares = found.pathology if variant == "views" else found.pathology + found.genomics
    assert adjusted_rand_score(truth, shares[0].argmax(dim=0)) > 0.9
