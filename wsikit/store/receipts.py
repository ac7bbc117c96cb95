"""Receipts: what a column was computed from, and with which parameters. They decide whether a stored column is kept.

A receipt is stored in the attributes of the column that it describes, so that no two stages write the same file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


def digest_of(record: Any) -> str:
    """sha256 (hex) of `record` as canonical JSON."""
    text = json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()


@dataclass(frozen=True)
class Receipt:
    """What a stage read, and its parameters. Equal receipts mean equal results.

    Examples
    --------
    >>> made = Receipt("vote", 2, {"method": "mean"}, {"probability": "4f2a"})
    >>> Receipt.from_json(made.to_json()).digest == made.digest
    True
    """

    stage: str
    """Name of the stage that wrote the column."""
    revision: int
    """Raised by hand when the stage gives other results for equal input; only then are its columns computed again."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Every option that can change the result; JSON values."""
    inputs: Mapping[str, str] = field(default_factory=dict)
    """Digest of each thing read, by name: other columns' receipts, the source's fingerprint, a model's."""

    @property
    def digest(self) -> str:
        """Identity of this receipt: sha256 over all of it."""
        return digest_of([self.stage, self.revision, dict(self.parameters), dict(self.inputs)])

    def to_json(self) -> dict[str, Any]:
        return {
            "stage": self.stage,
            "revision": self.revision,
            "parameters": dict(self.parameters),
            "inputs": dict(self.inputs),
            "digest": self.digest,
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Receipt:
        return cls(record["stage"], int(record["revision"]), record["parameters"], record["inputs"])
