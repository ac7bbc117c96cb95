"""Gene sets of a GMT file, matched to the columns of a table. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from wsikit.errors import RequestError


def read_gmt(path: Path) -> dict[str, tuple[str, ...]]:
    """Genes of each set, in the order of the file.

    Each line is a set: its name, a description or URL, then its genes, separated by tabs (MSigDB's format).

    Raises
    ------
    RequestError
        If the file is missing, empty, or a line has no gene, or a name comes twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(
            f"{path}: cannot be read as a GMT file ({error}); give gene sets as MSigDB has them."
        ) from error
    sets: dict[str, tuple[str, ...]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        name, *rest = (part.strip() for part in line.split("\t"))
        genes = tuple(dict.fromkeys(gene for gene in rest[1:] if gene))
        if not name or not genes:
            raise RequestError(f"{path}: line {number}: expected name, description and genes, separated by tabs.")
        if name in sets:
            raise RequestError(f"{path}: line {number}: the set {name} is there twice; remove one.")
        sets[name] = genes
    if not sets:
        raise RequestError(f"{path}: holds no gene set; expected one per line.")
    return sets


def symbol(column: str) -> str:
    """Gene of a column: what is before the last underscore of `TP53_rnaseq`, in capitals.

    >>> symbol("TP53_rnaseq"), symbol("tp53")
    ('TP53', 'TP53')
    """
    return column.rpartition("_")[0].upper() or column.upper()


def match_sets(
    sets: dict[str, tuple[str, ...]], columns: Sequence[str], *, smallest: int, file: str
) -> dict[str, tuple[int, ...]]:
    """Columns of each set, ascending indices; sets with fewer than `smallest` of them are left out.

    A column matches a gene by its whole name or by `symbol`, without regard to capitals.

    Raises
    ------
    RequestError
        If no set is left.

    >>> match_sets({"A": ("TP53", "EGFR"), "B": ("X",)}, ["egfr_rnaseq", "age"], smallest=1, file="sets.gmt")
    {'A': (0,)}
    """
    of: dict[str, list[int]] = {}
    for index, column in enumerate(columns):
        for name in {column.upper(), symbol(column)}:
            of.setdefault(name, []).append(index)
    found = {name: sorted({i for gene in genes for i in of.get(gene.upper(), ())}) for name, genes in sets.items()}
    kept = {name: tuple(indices) for name, indices in found.items() if len(indices) >= smallest}
    if not kept:
        most = max((len(indices) for indices in found.values()), default=0)
        raise RequestError(
            f"{file}: no gene set has {smallest} genes among the {len(columns)} columns (most: {most}; the first "
            f"column is {columns[0] if columns else 'none'}). Give sets of gene symbols, as the columns have, or lower "
            "smallest."
        )
    return kept
