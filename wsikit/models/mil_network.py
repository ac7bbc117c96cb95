"""The network that is trained on bags of patches: embedding, gated attention, linear patch logits. Torch.

Its arrays, in the layout of `wsikit.models.mil`, are what predictions are computed from afterwards, without torch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from wsikit.models.mil_config import Pooling, Task
from wsikit.models.mil_pooling import evidence_scores, pooling_weights

CUT_GAP = 3.0
"""Distance of the thresholds of ordered classes at the start: a class between two of them can have a P of 0.64. From
nearly 0 they would have to learn it first."""


class MilNetwork(nn.Module):
    """Attention scores and logits of the patches of one slide.

    Parameters
    ----------
    width, hidden, attention : int
        D of the features, H of the embedding, A of the gated attention.
    outputs : int
        K, logits per patch.
    cuts : int
        Thresholds of ordered classes, or levels of the hazard; 0: none.

    Notes
    -----
    Gated attention: Ilse, Tomczak and Welling, ICML 2018 (arXiv 1802.04712), eq. 9.
    """

    mean: Tensor
    scale: Tensor

    def __init__(
        self,
        width: int,
        *,
        hidden: int,
        attention: int,
        outputs: int,
        pooling: Pooling,
        task: Task,
        alpha: float = 0.1,
        cuts: int = 0,
        dropout: float = 0.25,
    ) -> None:
        super().__init__()
        self.pooling, self.task, self.alpha = pooling, task, alpha
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))
        self.embed = nn.Linear(width, hidden)
        self.gates = nn.ModuleList([nn.Linear(hidden, attention), nn.Linear(hidden, attention)])
        self.score = nn.Linear(attention, 1, bias=False)
        self.head = nn.Linear(hidden, outputs)
        self.levels = task == "survival"
        gap = 0.0 if self.levels else CUT_GAP
        self.first_cut = nn.Parameter(torch.full((min(cuts, 1),), -gap * (cuts - 1) / 2))
        self.steps = nn.Parameter(torch.full((max(cuts - 1, 0),), gap))
        self.dropout = nn.Dropout(dropout)

    @property
    def cuts(self) -> Tensor:
        """(J,) thresholds; of ordered classes they ascend by construction, so P(y > k) falls with k."""
        if self.levels or not len(self.steps):
            return torch.cat([self.first_cut, self.steps])
        return torch.cat([self.first_cut, self.first_cut + torch.cumsum(functional.softplus(self.steps), 0)])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (N,) and logits (N, K) of features (N, D)."""
        h = self.dropout(torch.relu(self.embed((x - self.mean) / self.scale)))
        return self._scores(h), self.head(h)

    def pooled(self, scores: Tensor, logits: Tensor) -> Tensor:
        """Logits (K,) of the slide."""
        return self.weights(scores, logits) @ logits

    def weights(self, scores: Tensor, logits: Tensor) -> Tensor:
        """(N,) weights of the patches, of sum 1. Those of max and alpha_beta are taken as constants."""
        if self.pooling == "abmil":
            return torch.softmax(scores, dim=0)
        ranked = evidence_scores(logits.detach().cpu().numpy(), self.task, self.pooling)
        return torch.as_tensor(pooling_weights(ranked, self.pooling, self.alpha), dtype=logits.dtype).to(logits.device)

    def _scores(self, h: Tensor) -> Tensor:
        if self.pooling != "abmil":
            return h.new_zeros(len(h))
        tanh, sigmoid = torch.tanh(self.gates[0](h)), torch.sigmoid(self.gates[1](h))
        found: Tensor = self.score(tanh * sigmoid).squeeze(1)
        return found

    @torch.no_grad()
    def arrays(self) -> dict[str, npt.NDArray[np.float32]]:
        """As `wsikit.models.mil` names them, float32."""
        found: dict[str, Any] = {
            "mean": self.mean, "scale": self.scale,
            "weight1": self.embed.weight.T, "bias1": self.embed.bias,
            "weight": self.head.weight.T, "bias": self.head.bias,
        }  # fmt: skip
        if self.pooling == "abmil":
            for name, layer in (("v", self.gates[0]), ("u", self.gates[1])):
                found |= {name: layer.weight.T, f"{name}_bias": layer.bias}
            found["w"] = self.score.weight[0]
        if len(self.cuts):
            found["cuts"] = self.cuts
        # row by row: safetensors writes the memory as it is, and a transposed array would be read back as another
        return {name: np.array(values.detach().cpu().numpy(), np.float32, order="C") for name, values in found.items()}
