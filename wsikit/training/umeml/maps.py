"""Maps of prototypes: a patient's assignment goes to the patch tables of the patient's slide stores."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from wsikit.encoders.protocol import COLUMN_PREFIX
from wsikit.errors import RequestError
from wsikit.inference.prototype_columns import write_prototype_column
from wsikit.slides.store import SlideStore
from wsikit.training.cohort.bags import SlideBag, bag_rows
from wsikit.training.umeml.views import PatientView


def write_prototype_maps(view: PatientView, bag: SlideBag, *, name: str, model: str) -> list[Path]:
    """Write the column `prototypes_<name>` into each slide store of a patient; return the stores.

    Files of other tools hold no patch table of wsikit and are passed over.

    Parameters
    ----------
    view
        Of the patient, from `wsikit.training.umeml.views.explain`.
    bag
        The patient's patches, in the same order.
    name
        Of the model, lower case, digits, dots and hyphens.
    model
        Fingerprint of the model: another one makes the column again.

    Raises
    ------
    RequestError
        The files hold another number of patches than the view.
    """
    written, start = [], 0
    for path in bag.files:
        rows = bag_rows(path, column=bag.column)
        part = view.assignment[start : start + int(rows.sum())]
        start += int(rows.sum())
        if path.suffix.lower() != ".zarr" or len(part) < rows.sum():
            continue
        assignment = np.full((len(rows), part.shape[1]), np.nan, dtype=np.float32)
        assignment[rows] = part
        with SlideStore(path) as store:
            table = store.patches()
            column = bag.column or next(one for one in table.columns() if one.startswith(COLUMN_PREFIX))
            features = table.receipt(column)
            assert features is not None  # it was just read
            write_prototype_column(table, name, assignment, model=model, features=features)
            written.append(path)
    if start != len(view.assignment):
        raise RequestError(
            f"patient {view.id}: {start} patches in the files, {len(view.assignment)} in the view. Explain the patient "
            "again from these files."
        )
    return written
