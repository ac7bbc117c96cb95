"""Tables of a cohort as inputs of UMEML: everything is fitted on the training part and applied to all others.

No torch here. Axes: N patients, D columns of a table, T tokens, q direct columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wsikit.errors import RequestError
from wsikit.models.umeml.config import GroupsConfig, LearnedGroupsConfig, RowConfig, TokenConfig
from wsikit.training.cohort.protocol import Part
from wsikit.training.cohort.scaling import ColumnScaler, Components, fit_columns, fit_components
from wsikit.training.umeml.gene_sets import match_sets, read_gmt
from wsikit.training.umeml.settings import TableSettings

Floats = npt.NDArray[np.float32]
FEW_COLUMNS = 64
"""Up to so many columns each is a token by default; above, groups are."""


@dataclass(frozen=True)
class TokenTable:
    """One token set of a table, as fitted."""

    table: str
    fitted: ColumnScaler | Components
    config: TokenConfig
    names: tuple[str, ...]
    """Of its tokens, (T,): a column, a gene set, a cluster, a component."""
    members: tuple[tuple[str, ...], ...]
    """Columns behind each token; of components and learned groups, all or none: ()."""
    columns: tuple[str, ...]
    """Columns of the input, in their order."""

    def transform(self, values: Floats) -> Floats:
        """Input of the token set, float32 (N, columns); a patient whose whole row is missing has NaN."""
        return _with_missing(self.fitted.transform(values), values)


@dataclass(frozen=True)
class DirectTable:
    """Columns of a table that enter the heads linearly."""

    table: str
    owner: str
    """The token set whose absence makes them 0."""
    fitted: ColumnScaler | Components
    names: tuple[str, ...]
    divisor: float
    """Root of the number of columns: one ridge penalty is fair to tables of all sizes."""

    def transform(self, values: Floats) -> Floats:
        """Float32 (N, q); 0 for a missing patient."""
        scaled = _with_missing(self.fitted.transform(values), values) / np.float32(self.divisor)
        known: Floats = np.nan_to_num(scaled, copy=False)
        return known


def _with_missing(made: Floats, values: Floats) -> Floats:
    made = made.astype(np.float32, copy=True)
    made[np.isnan(values).all(axis=1)] = np.nan
    return made


@dataclass(frozen=True)
class Tables:
    """All token sets and direct columns of a cohort."""

    tokens: Mapping[str, TokenTable]
    direct: tuple[DirectTable, ...]
    loadings: Mapping[str, Floats] = field(default_factory=dict)
    """By token set, (columns, r): from which its weights start, where settings say so. Only for a training's start."""

    @property
    def sources(self) -> dict[str, str]:
        """First token set of the table of each token set, where that is another."""
        first: dict[str, str] = {}
        found = {}
        for name, one in self.tokens.items():
            source = first.setdefault(one.table, name)
            if source != name:
                found[name] = source
        return found

    @property
    def owners(self) -> tuple[str, ...]:
        """Token set of each direct column, (q,)."""
        return tuple(one.owner for one in self.direct for _ in one.names)

    @property
    def direct_names(self) -> tuple[str, ...]:
        """Names of the direct columns, (q,)."""
        return tuple(name for one in self.direct for name in one.names)

    def transform(self, part: Part) -> tuple[dict[str, Floats], Floats]:
        """Inputs of the token sets, and direct columns (N, q). A table that the part lacks has no entry.

        Raises
        ------
        RequestError
            If the columns are not those of the training.
        """
        values = {
            name: one.transform(part.columns[one.table])
            for name, one in self.tokens.items()
            if one.table in part.columns
        }
        made = [
            one.transform(part.columns[one.table])
            if one.table in part.columns
            else np.zeros((len(part), len(one.names)), np.float32)
            for one in self.direct
        ]
        return values, np.concatenate([np.zeros((len(part), 0), np.float32), *made], axis=1)


def default_settings(columns: int) -> tuple[TableSettings, ...]:
    """Token sets of a table for which none are given."""
    few = {"tokens": "row", "direct": "columns", "drop": 0.0}
    return (
        TableSettings.model_validate(few if columns <= FEW_COLUMNS else {"tokens": "clusters", "direct": "columns"}),
    )


def fit_tables(
    train: Part, settings: Mapping[str, TableSettings | tuple[TableSettings, ...]], *, seed: int = 0
) -> Tables:
    """Fit all tables on the training part.

    Raises
    ------
    RequestError
        If settings name a table that the cohort does not have, or gene sets do not match.
    """
    unknown = sorted(set(settings) - set(train.columns))
    if unknown:
        there = ", ".join(train.columns) or "none"
        raise RequestError(f"umeml: tables: the cohort has no table {', '.join(unknown)}; it has {there}.")
    tokens: dict[str, TokenTable] = {}
    direct: list[DirectTable] = []
    loadings: dict[str, Floats] = {}
    for table, values in train.columns.items():
        given = settings.get(table, default_settings(values.shape[1]))
        for number, one in enumerate((given,) if isinstance(given, TableSettings) else given):
            name = table if number == 0 else f"{table}_{one.tokens}"
            if name in tokens:
                raise RequestError(f"umeml: tables: {table}: {one.tokens} twice; give each kind of tokens once.")
            tokens[name] = _fit_tokens(train, table, one, seed)
            if one.start == "correlated" and one.tokens in ("gene_sets", "clusters"):
                has = ~np.isnan(values).all(axis=1)
                loadings[name] = loadings_of(tokens[name].fitted.transform(values[has]))
            if one.direct != "none":
                direct.append(_fit_direct(values, train.names[table], table, name, one))
    return Tables(tokens, tuple(direct), loadings)


def _fit_direct(values: Floats, names: Sequence[str], table: str, owner: str, one: TableSettings) -> DirectTable:
    measured = values[~np.isnan(values).all(axis=1)]
    if one.direct == "components":
        fitted: ColumnScaler | Components = fit_components(measured, one.components)
        made = tuple(f"component {i + 1}" for i in range(fitted.transform(measured[:1]).shape[1]))
    else:
        fitted = fit_columns(measured)
        made = tuple(names[i] for i in fitted.kept)
    return DirectTable(table, owner, fitted, made, len(made) ** 0.5)


def _fit_tokens(train: Part, table: str, one: TableSettings, seed: int) -> TokenTable:
    has = ~np.isnan(train.columns[table]).all(axis=1)
    values, names = train.columns[table][has], train.names[table]
    if one.tokens == "components":
        components = fit_components(values, one.components)
        n = components.transform(values[:1]).shape[1]
        row = RowConfig(columns=n, layers=one.layers, heads=one.heads, drop=one.drop)
        made = tuple(f"component {i + 1}" for i in range(n))
        return TokenTable(table, components, row, made, ((),) * n, made)
    scaler = fit_columns(values, most=one.most, by=one.by, part=train.take(np.flatnonzero(has)))
    kept = tuple(names[i] for i in scaler.kept)
    if one.tokens == "row":
        row = RowConfig(columns=len(kept), layers=one.layers, heads=one.heads, drop=one.drop)
        return TokenTable(table, scaler, row, kept, tuple((name,) for name in kept), kept)
    if one.tokens == "learned":
        learned = LearnedGroupsConfig(
            columns=len(kept), groups=one.groups, layers=one.layers, heads=one.heads, drop=one.drop
        )
        made = tuple(f"group {i + 1}" for i in range(one.groups))
        return TokenTable(table, scaler, learned, made, ((),) * one.groups, kept)
    if one.tokens == "gene_sets":
        assert one.gene_sets is not None  # checked by the settings
        sets = match_sets(read_gmt(Path(one.gene_sets)), kept, smallest=one.smallest, file=one.gene_sets)
    else:
        sets = clusters_of(scaler.transform(values), one.groups, seed=seed)
    groups = GroupsConfig(groups=tuple(sets.values()), layers=one.layers, heads=one.heads, drop=one.drop)
    members = tuple(tuple(kept[i] for i in group) for group in sets.values())
    return TokenTable(table, scaler, groups, tuple(sets), members, kept)


def clusters_of(z: Floats, groups: int, *, seed: int) -> dict[str, tuple[int, ...]]:
    """Clusters of correlated columns, by k-means of the columns as unit vectors over the patients (N, D).

    At most as many clusters as columns; empty ones are left out.
    """
    from sklearn.cluster import KMeans

    vectors = (z - z.mean(axis=0)).T.astype(np.float64)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    of = KMeans(min(groups, len(vectors)), n_init=1, random_state=seed).fit_predict(vectors)
    found = [tuple(int(i) for i in np.flatnonzero(of == cluster)) for cluster in range(of.max() + 1)]
    return {f"cluster {i + 1}": one for i, one in enumerate(found) if one}


def loadings_of(z: Floats, most: int = 32) -> Floats:
    """Loadings of the first components of z-scores (N, D), (D, r): the product of two rows approximates the correlation
    of two columns.

    >>> z = np.array([[1.0, 1.0, 0.0], [-1.0, -1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, -1.0]], np.float32)
    >>> np.round(loadings_of(z) @ loadings_of(z).T, 3)[0]
    array([0.5, 0.5, 0. ], dtype=float32)
    """
    centred = z.astype(np.float64) - z.mean(axis=0)
    _, singular, axes = np.linalg.svd(centred, full_matrices=False)
    r = min(most, len(singular))
    found: Floats = (axes[:r].T * singular[:r] / len(z) ** 0.5).astype(np.float32)
    return found
