"""Task heads of UMEML: from the state of a task's token to logits. Axes: B patients, d width, q direct columns."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsikit.models.umeml.config import TaskConfig
from wsikit.models.umeml.losses import discrete_risk, log_survival, ordinal_log_probs


class TaskHead(nn.Module):
    """A linear head. With direct columns, a linear function of them is added to the score.

    | kind | output | meaning |
    |---|---|---|
    | survival | (B, T) | logits of the hazards |
    | cox | (B, 1) | log-risk |
    | classification | (B, C) | logits |
    | ordinal | (B, C) | logarithms of the class probabilities |
    """

    def __init__(self, config: TaskConfig, width: int, direct: int) -> None:
        super().__init__()
        self.config = config
        one_score = config.kind in ("cox", "ordinal")
        # a constant has no effect on Cox's loss, and that of a grade is in its cuts
        self.deep = nn.Linear(width, 1 if one_score else config.outputs, bias=not one_score)
        self.direct: nn.Linear | None = None
        if config.linear and direct:
            # survival: one risk for all intervals, as proportional hazards have
            columns = config.outputs if config.kind == "classification" else 1
            self.direct = nn.Linear(direct, columns, bias=False)
            nn.init.zeros_(self.direct.weight)
        if config.kind == "ordinal":
            self.first = nn.Parameter(torch.zeros(1))
            self.steps = nn.Parameter(torch.zeros(config.outputs - 2))

    def cuts(self) -> Tensor:
        """Of an ordinal task, (C − 1,), increasing."""
        return torch.cat([self.first, self.first + functional.softplus(self.steps).cumsum(0)])

    def forward(self, state: Tensor, direct: Tensor | None = None) -> Tensor:
        """`state` (B, d); `direct` (B, q), no NaN."""
        score: Tensor = self.deep(state)
        if self.direct is not None and direct is not None:
            score = score + self.direct(direct)
        if self.config.kind == "ordinal":
            return ordinal_log_probs(score.squeeze(1), self.cuts())
        return score

    def risk(self, output: Tensor) -> Tensor:
        """Risk (B,) of a survival task's output; higher means earlier."""
        return discrete_risk(output) if self.config.kind == "survival" else output.squeeze(1)

    def probs(self, output: Tensor) -> Tensor:
        """Class probabilities (B, C), or the survival curve at the end of each interval (B, T)."""
        if self.config.kind == "survival":
            return log_survival(output).exp()
        return output.softmax(dim=1)
