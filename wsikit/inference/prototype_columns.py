"""The map of prototypes: the assignment of each patch as a column, which all exporters of maps can show."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from wsikit.errors import RequestError
from wsikit.store.receipts import Receipt
from wsikit.store.table import ColumnSpec, PatchTable, coords_digest

PROTOTYPE_PREFIX, PROTOTYPE_STAGE, PROTOTYPE_REVISION = "prototypes_", "prototypes", 1


def write_prototype_column(
    table: PatchTable, name: str, assignment: npt.NDArray[np.floating], *, model: str, features: Receipt
) -> str:
    """Write the column `prototypes_<name>`, float32 (N, K), with entries "prototype 1" to "prototype K".

    An equal receipt keeps what is there. `wsikit export STORE --to png` and the other maps then show
    `prototypes_<name>:prototype 3`.

    Parameters
    ----------
    table : PatchTable
    name : str
        Of the model.
    assignment : float (N, K)
        Which prototype each patch belongs to; rows sum to 1, NaN for patches without features.
    model : str
        Fingerprint of the model.
    features : Receipt
        Of the features that it read.

    Returns
    -------
    str
        Name of the column.

    Raises
    ------
    RequestError
        If the assignment is not of the patches of this table.
    """
    if assignment.ndim != 2 or len(assignment) != len(table):
        raise RequestError(
            f"{table.folder}: an assignment of shape {assignment.shape} for {len(table)} patches; expected "
            f"({len(table)}, prototypes). Predict the features of this table again."
        )
    k = assignment.shape[1]
    spec = ColumnSpec(
        PROTOTYPE_PREFIX + name,
        "float32",
        k,
        attributes={"names": [f"prototype {i + 1}" for i in range(k)], "unit": "share"},
    )
    inputs = {"patches": coords_digest(table), "features": features.digest, "model": model}
    for rows in table.prepare((spec,), Receipt(PROTOTYPE_STAGE, PROTOTYPE_REVISION, {}, inputs)):
        table.write(spec.name, rows, assignment[rows])
    return spec.name
