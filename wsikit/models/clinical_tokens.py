"""A row of clinical values as tokens: age, sex, site, MYCN status … next to the patches of a slide.

Each column is a token of its own, as in IRENE (Zhou et al., Nat Biomed Eng 2023, arXiv 2306.00864): a number scales a
learnt direction, a category chooses a learnt vector. A missing value is masked, so no attention reads it; it is not
taken for zero or for the mean. One further token is always present, so that a row without any value is valid.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wsikit.errors import RequestError

MISSING = frozenset({"", "-", "–", "?", "na", "n/a", "nan", "none", "null", "unknown", "not reported"})
"""Texts that a table has where a value is not known, in lower case."""

Value = str | float | None
"""A cell of a table; None, NaN and a text of `MISSING` are missing."""


@dataclass(frozen=True)
class ClinicalColumns:
    """The columns of a clinical table that a model reads."""

    numeric: tuple[str, ...] = ()
    """Names of n columns with numbers."""
    categorical: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """m columns with their categories."""

    def __post_init__(self) -> None:
        names = self.names
        if not names or len(set(names)) < len(names):
            raise RequestError(f"clinical columns {list(names)}: give at least one, each once")
        for name, categories in self.categorical:
            if not categories or len(set(categories)) < len(categories):
                raise RequestError(f"clinical column {name!r}: categories {list(categories)}; give each once")

    @property
    def names(self) -> tuple[str, ...]:
        """Numbers first."""
        return (*self.numeric, *(name for name, _ in self.categorical))

    def read(self, rows: Sequence[Mapping[str, Value]]) -> ClinicalRows:
        """The values of B rows of a table, by column name; the order of the cells does not matter.

        Raises
        ------
        RequestError
            A cell is not a number, or not one of the column's categories; the message has row, column and value.

        >>> columns = ClinicalColumns(("age",), (("MYCN", ("amplified", "normal")),))
        >>> rows = columns.read([{"age": 14, "MYCN": "normal"}, {"MYCN": "unknown"}])
        >>> rows.present.tolist(), rows.codes.tolist()
        ([[True, True], [False, False]], [[1], [0]])
        """
        present = torch.zeros(len(rows), len(self.names), dtype=torch.bool)
        values = torch.zeros(len(rows), len(self.numeric))
        codes = torch.zeros(len(rows), len(self.categorical), dtype=torch.int64)
        for number, row in enumerate(rows):
            for at, name in enumerate(self.numeric):
                if not is_missing(row.get(name)):
                    values[number, at] = _number(row[name], f"row {number + 1}, column {name!r}")
                    present[number, at] = True
            for at, (name, categories) in enumerate(self.categorical):
                if not is_missing(row.get(name)):
                    text = str(row[name]).strip()
                    if text not in categories:
                        raise RequestError(
                            f"row {number + 1}, column {name!r}: {text!r} is none of {', '.join(categories)}; leave it "
                            "empty if it is not known"
                        )
                    codes[number, at] = categories.index(text)
                    present[number, len(self.numeric) + at] = True
        return ClinicalRows(values, codes, present)


@dataclass(frozen=True, eq=False)
class ClinicalRows:
    """The values of B rows."""

    values: Tensor
    """float32 (B, n), in the units of the table; anything where missing."""
    codes: Tensor
    """int64 (B, m), index of the category; any index where missing."""
    present: Tensor
    """bool (B, n + m), False where the value is missing."""


class ClinicalTokens(nn.Module):
    """Tokens of clinical rows, (B, 1 + n + m, dim), and which of them are present, bool (B, 1 + n + m).

    Parameters
    ----------
    columns
        What the rows hold.
    dim
        Width of a token.

    >>> columns = ClinicalColumns(("age",), (("sex", ("F", "M")),))
    >>> tokens, present = ClinicalTokens(columns, dim=8)(columns.read([{"age": 3.0}]))
    >>> tuple(tokens.shape), present.tolist()
    ((1, 3, 8), [[True, True, False]])
    """

    mean: Tensor
    sd: Tensor

    def __init__(self, columns: ClinicalColumns, dim: int) -> None:
        super().__init__()
        self.columns = columns
        n, m = len(columns.numeric), len(columns.categorical)
        self.row = nn.Parameter(0.02 * torch.randn(dim))
        self.column = nn.Parameter(0.02 * torch.randn(n + m, dim))
        self.direction = nn.Parameter(torch.randn(n, dim) / math.sqrt(dim))
        self.categories = nn.ModuleList(nn.Embedding(len(known), dim) for _, known in columns.categorical)
        for embedding in self.categories:
            nn.init.normal_(embedding.weight, std=1 / math.sqrt(dim))  # type: ignore[arg-type]
        self.register_buffer("mean", torch.zeros(n))
        self.register_buffer("sd", torch.ones(n))

    def fit(self, rows: ClinicalRows) -> None:
        """Take mean and standard deviation of the numbers from the training patients, without missing values."""
        n = len(self.columns.numeric)
        for at in range(n):
            known = rows.values[rows.present[:, at], at]
            if len(known):
                self.mean[at] = known.mean()
                spread = float(known.std(correction=0))
                self.sd[at] = spread if spread > 0 else 1.0

    def forward(self, rows: ClinicalRows) -> tuple[Tensor, Tensor]:
        n = len(self.columns.numeric)
        # a missing number may be NaN, which no mask of the attention removes from a sum
        scaled = torch.where(rows.present[:, :n], (rows.values - self.mean) / self.sd, 0.0)
        parts = [scaled[..., None] * self.direction]
        parts += [embedding(rows.codes[:, at])[:, None] for at, embedding in enumerate(self.categories)]
        tokens = torch.cat(parts, dim=1) + self.column
        batch = len(tokens)
        tokens = torch.cat([self.row.expand(batch, 1, -1), tokens], dim=1)
        return tokens, torch.cat([rows.present.new_ones(batch, 1), rows.present], dim=1)


def is_missing(value: Value) -> bool:
    """Whether a cell holds no value.

    >>> is_missing(float("nan")), is_missing("Unknown"), is_missing(0)
    (True, True, False)
    """
    if value is None:
        return True
    return value.strip().lower() in MISSING if isinstance(value, str) else math.isnan(value)


def _number(value: Value, where: str) -> float:
    try:
        number = float(value)  # type: ignore[arg-type]
    except ValueError:
        raise RequestError(f"{where}: {value!r} is not a number; leave it empty if it is not known") from None
    if not math.isfinite(number):
        raise RequestError(f"{where}: {value!r} is not a finite number")
    return number
