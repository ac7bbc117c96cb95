"""The labelled table that a configuration describes, with its classes mapped to the model's."""

from __future__ import annotations

from collections.abc import Mapping

from wsikit.errors import RequestError
from wsikit.training.datasets.classes import Mapped, map_classes
from wsikit.training.datasets.names import read_names
from wsikit.training.datasets.stores import read_stores
from wsikit.training.datasets.table import Columns, ImageTable, read_table
from wsikit.training.task import DataConfig, TaskConfig


def configured_table(config: TaskConfig) -> tuple[Mapped, float]:
    """Read the table of a configuration; no pixels are read.

    Returns
    -------
    The table with the classes of the model and the rows left out, and the µm/px of its images.

    Raises
    ------
    RequestError
        If a part is missing or inconsistent; the message names it.
    """
    table = table_of(config.data)
    mpp = mpp_of(table, config.data)
    return map_classes(table, config.values, drop_others=config.data.drop_others), mpp


def words_of_dropped(dropped: Mapping[str, int]) -> str:
    """The rows left out as a sentence that follows another one; empty if there are none.

    >>> words_of_dropped({"glass": 3})
    ' Left out, of other classes: 3 glass.'
    """
    if not dropped:
        return ""
    return f" Left out, of other classes: {', '.join(f'{n} {name}' for name, n in dropped.items())}."


def mpp_of(table: ImageTable, data: DataConfig) -> float:
    """µm/px of the images as stored. RequestError if table and configuration differ."""
    if data.mpp is not None and table.mpp is not None and abs(data.mpp / table.mpp - 1) > 0.01:
        raise RequestError(f"{table.source}: patches at {table.mpp:g} µm/px, the configuration says {data.mpp:g}.")
    mpp = table.mpp or data.mpp
    assert mpp is not None  # the configuration was checked
    return mpp


def table_of(data: DataConfig, *, needs_class: bool = True) -> ImageTable:
    """The table of the configured source; RequestError as by its reader. Without `needs_class`, classes may lack."""
    if data.table is not None:
        columns = Columns(**data.table.columns.model_dump(exclude_unset=True))
        return read_table(data.table.csv, data.table.images, columns=columns, needs_class=needs_class)
    if data.names is not None:
        return read_names(data.names.images, data.names.pattern)
    assert data.stores is not None
    return read_stores(data.stores.manifest)
