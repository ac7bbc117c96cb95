"""What UMEML made of a patient: prototypes with their patches, communities of prototypes and genes, columns behind the
risk.

Axes: N patches, K prototypes, T second tokens, n = K + T nodes, C communities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from wsikit.errors import RequestError
from wsikit.models.umeml.config import UmemlConfig
from wsikit.models.umeml.heads import TaskHead
from wsikit.models.umeml.network import UmemlOutput
from wsikit.training.cohort.protocol import Part
from wsikit.training.umeml.data import Batch
from wsikit.training.umeml.learner import FittedUmeml
from wsikit.training.umeml.loop import forward

Floats = npt.NDArray[np.float32]
Index = npt.NDArray[np.int64]


@dataclass(frozen=True)
class PatientView:
    """One patient."""

    id: str
    nodes: tuple[str, ...]
    """(n,): "prototype 1" …, then the second tokens, such as "rna: cluster 3". A missing table has none."""
    prototypes: int
    """K; 0 without slides."""
    assignment: Floats
    """(N, K): which prototype each patch belongs to; rows sum to 1."""
    attention: Floats
    """(N, K): which patches a prototype is made of; columns sum to 1."""
    communities: Index
    """(n,): community of each node, by the assignment of the pathology view."""
    shares: Floats
    """(2, C, n): soft communities of the pathology and the genomics view; (2, 0, n) without the modularity loss."""
    relevance: dict[str, dict[str, float]]
    """By table and column: value times the gradient of the first task's score, in units of that score. Positive: raises
    the risk, or the probability of the predicted class. A linear approximation around this patient."""

    @property
    def shares_of_patches(self) -> Floats:
        """Part of the patches that belongs to each prototype, (K,); sums to 1."""
        return self.assignment.mean(axis=0) if len(self.assignment) else np.zeros(self.prototypes, np.float32)

    def top_patches(self, prototype: int, count: int = 8) -> Index:
        """Patches that a prototype is made of, strongest first, (count,)."""
        return np.argsort(-self.attention[:, prototype], kind="stable")[:count].astype(np.int64)

    def tied(self, prototype: int) -> tuple[str, ...]:
        """Second tokens in the community of a prototype."""
        same = np.flatnonzero(self.communities[self.prototypes :] == self.communities[prototype])
        return tuple(self.nodes[self.prototypes + int(i)] for i in same)


def consensus(views: Sequence[PatientView], *, seed: int = 0) -> Index:
    """Communities of a cohort's nodes, (n,): Louvain's partition of how often two nodes share a community of a patient.

    A patient's own communities depend on what is active there; over many patients, nodes of one group stay together.
    Views must have the same nodes.

    >>> view = PatientView("a", ("x", "y", "z"), 0, np.zeros((0, 0), np.float32), np.zeros((0, 0), np.float32),
    ...                    np.array([0, 0, 1]), np.zeros((2, 2, 3), np.float32), {})
    >>> consensus([view]).tolist()
    [0, 0, 1]
    """
    import networkx as nx

    if not views or any(view.nodes != views[0].nodes for view in views):
        raise RequestError("consensus: give patients who have the same tables and slides, at least one.")
    together = np.mean([view.communities[:, None] == view.communities[None, :] for view in views], axis=0)
    apart = ~np.eye(len(together), dtype=bool)
    # only what is together more often than two nodes on average: chance alone joins all nodes
    graph = nx.from_numpy_array(np.maximum(together - together[apart].mean(), 0.0) * apart)
    labels = np.empty(len(together), dtype=np.int64)
    for number, nodes in enumerate(sorted(nx.community.louvain_communities(graph, seed=seed), key=min)):
        labels[list(nodes)] = number
    return labels


def explain(fitted: FittedUmeml, part: Part) -> list[PatientView]:
    """Views of all patients of a part, by the first member; prototypes of different members are not the same."""
    network = fitted.members[0].network.eval()
    patients = fitted.patients(part)
    views = []
    for row in range(len(patients)):
        (batch,) = patients.batches(np.array([row]), together=1)
        values = {name: one.clone().requires_grad_() for name, one in batch.values.items()}
        direct = batch.direct.clone().requires_grad_()
        with torch.enable_grad():
            found = forward(network, Batch(batch.rows, batch.patches, batch.mask, values, direct))
            task = fitted.tasks.configs[0]
            output = found.tasks[task.name]
            head = network.heads[task.name]
            assert isinstance(head, TaskHead)
            score = output.max() if task.kind in ("classification", "ordinal") else head.risk(output).sum()
            gradients = torch.autograd.grad(score, [*values.values(), direct], allow_unused=True)
        columns = {
            name: (gradient * one).detach().nan_to_num(0.0)[0].cpu().numpy()
            for (name, one), gradient in zip([*values.items(), ("", direct)], gradients, strict=True)
            if gradient is not None
        }
        views.append(_view(fitted, patients.ids[row], found, columns, network.config))
    return views


def _view(
    fitted: FittedUmeml, patient: str, found: UmemlOutput, columns: dict[str, Floats], config: UmemlConfig
) -> PatientView:
    k, assignment, attention = 0, np.zeros((0, 0), np.float32), np.zeros((0, 0), np.float32)
    if found.prototypes is not None:
        k = found.prototypes.tokens.shape[1]
        assignment = found.prototypes.assignment[0].T.detach().cpu().numpy()
        attention = found.prototypes.attention[0].T.detach().cpu().numpy()
    sets = [name for name in config.tokens if name in columns]
    nodes = [f"prototype {i + 1}" for i in range(k)]
    nodes += [f"{name}: {token}" for name in sets for token in fitted.tables.tokens[name].names]
    shares = np.zeros((2, 0, len(nodes)), np.float32)
    if found.communities is not None:
        shares = torch.stack([found.communities.pathology[0], found.communities.genomics[0]]).detach().cpu().numpy()
    total = shares.sum(axis=0) if config.modularity.variant == "blocks" else shares[0]
    return PatientView(
        id=patient,
        nodes=tuple(nodes),
        prototypes=k,
        assignment=assignment,
        attention=attention,
        communities=total.argmax(axis=0) if shares.shape[1] else np.zeros(len(nodes), np.int64),
        shares=shares,
        relevance=_relevance(fitted, columns),
    )


def _relevance(fitted: FittedUmeml, columns: dict[str, Floats]) -> dict[str, dict[str, float]]:
    """Sums over the token sets of a table and its direct columns, by column; components keep their own names."""
    found: dict[str, dict[str, float]] = {}
    for name, one in fitted.tables.tokens.items():
        if name in columns:
            for column, value in zip(one.columns, columns[name], strict=True):
                of = found.setdefault(one.table, {})
                of[column] = of.get(column, 0.0) + float(value)
    start = 0
    for direct in fitted.tables.direct:
        for column, value in zip(direct.names, columns.get("", np.zeros(0))[start:], strict=False):
            of = found.setdefault(direct.table, {})
            of[column] = of.get(column, 0.0) + float(value)
        start += len(direct.names)
    return found
