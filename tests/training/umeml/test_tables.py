"""Gene sets, clusters and survival curves of UMEML's training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score

from wsikit.errors import RequestError
from wsikit.models.umeml.config import GroupsConfig
from wsikit.models.umeml.tokens import GroupTokens
from wsikit.training.cohort.protocol import Part
from wsikit.training.umeml.curves import fit_baseline, fit_shape
from wsikit.training.umeml.gene_sets import match_sets, read_gmt
from wsikit.training.umeml.settings import TableSettings, UmemlSettings
from wsikit.training.umeml.tables import clusters_of, fit_tables, loadings_of


def part_of(values: np.ndarray, names: tuple[str, ...]) -> Part:
    ids = tuple(map(str, range(len(values))))
    return Part(ids, {"rna": values.astype(np.float32)}, {"rna": names})


def test_gene_sets_of_a_gmt_file_become_tokens_of_their_columns(tmp_path: Path) -> None:
    file = tmp_path / "sets.gmt"
    file.write_text("CYCLE\thttp://x\tCDK4\tCCND1\tMISSING\nIMMUNE\t\tcd4\tCD8A\nRARE\tx\tNONE\n")
    names = ("CDK4_rnaseq", "CCND1_rnaseq", "CD4_rnaseq", "CD8A_rnaseq", "OTHER_rnaseq")
    rng = np.random.default_rng(0)
    settings = {"rna": TableSettings(tokens="gene_sets", gene_sets=str(file), smallest=2)}
    tables = fit_tables(part_of(rng.normal(size=(9, 5)), names), settings)
    found = tables.tokens["rna"]
    assert found.names == ("CYCLE", "IMMUNE")
    assert found.members == (("CDK4_rnaseq", "CCND1_rnaseq"), ("CD4_rnaseq", "CD8A_rnaseq"))


def test_gene_sets_that_match_nothing_are_refused_with_the_count() -> None:
    with pytest.raises(RequestError, match=r"sets.gmt: no gene set has 5 genes among the 1 columns \(most: 1"):
        match_sets({"A": ("TP53", "EGFR")}, ["TP53_mut"], smallest=5, file="sets.gmt")


@pytest.mark.parametrize(
    ("text", "fault"),
    [("", "no gene set"), ("A\tx\n", "line 1"), ("A\tx\tB\nA\tx\tC\n", "twice"), (None, "cannot be read")],
)
def test_files_that_are_not_gmt_are_refused(tmp_path: Path, text: str | None, fault: str) -> None:
    file = tmp_path / "sets.gmt"
    if text is not None:
        file.write_text(text)
    with pytest.raises(RequestError, match=fault):
        read_gmt(file)


def test_clusters_recover_planted_groups_of_columns() -> None:
    rng = np.random.default_rng(0)
    truth = np.arange(40) % 4
    z = rng.normal(size=(80, 4))[:, truth] + 0.5 * rng.normal(size=(80, 40))
    found = np.empty(40)
    for number, columns in enumerate(clusters_of(z.astype(np.float32), 4, seed=0).values()):
        found[list(columns)] = number
    assert adjusted_rand_score(truth, found) == 1.0


def test_a_table_may_have_several_token_sets_of_one_source() -> None:
    values = np.random.default_rng(0).normal(size=(20, 70))
    two = (TableSettings(tokens="learned"), TableSettings(tokens="components", direct="components", components=3))
    tables = fit_tables(part_of(values, tuple(f"G{i}" for i in range(70))), {"rna": two})
    assert list(tables.tokens) == ["rna", "rna_components"]
    assert tables.sources == {"rna_components": "rna"}
    assert tables.owners == ("rna_components",) * 3


def test_a_table_that_the_cohort_lacks_is_refused() -> None:
    with pytest.raises(RequestError, match="no table protein; it has rna"):
        fit_tables(part_of(np.eye(4), tuple("abcd")), {"protein": TableSettings()})


def test_gene_sets_without_a_file_are_refused() -> None:
    with pytest.raises(ValueError, match="give both or none"):
        UmemlSettings.model_validate({"tables": {"rna": {"tokens": "gene_sets"}}})


def test_a_curve_of_the_training_part_itself_is_its_nelson_and_aalen_curve() -> None:
    """Within intervals a curve runs as that of the training part, through the ends that the network gives."""
    rng = np.random.default_rng(0)
    time, event = np.round(rng.exponential(20, 200)) + 1, rng.random(200) < 0.6  # with ties
    cuts = np.array([5.5, 12.5, 30.5])
    shape = fit_shape(time, event, cuts)
    hazard = np.cumsum([(event & (time == t)).sum() / (time >= t).sum() for t in shape.times])
    ends = np.exp(-np.array([hazard[shape.times <= end][-1] for end in (*cuts, np.inf)]))
    np.testing.assert_allclose(shape.survival(ends[None])[0], np.exp(-hazard))
    other = shape.survival(ends[None] ** 2)[0]  # twice the hazard
    np.testing.assert_allclose(other, np.exp(-2 * hazard))
    np.testing.assert_allclose(
        shape.survival(np.array([[0.9, 0.5, 0.2, 0.1]]))[0, shape.share == 1], [0.9, 0.5, 0.2, 0.1]
    )


def test_the_baseline_of_equal_risks_is_nelson_and_aalens() -> None:
    time, event = np.array([2.0, 2.0, 3.0, 5.0]), np.array([True, True, False, True])
    found = fit_baseline(np.zeros(4), time, event)
    np.testing.assert_allclose(found.times, [2.0, 5.0])
    np.testing.assert_allclose(found.hazard, [2 / 4, 2 / 4 + 1])
    np.testing.assert_allclose(found.survival(np.array([np.log(2.0)])), np.exp(-2 * found.hazard)[None])


def test_groups_of_correlated_columns_start_with_similar_tokens() -> None:
    """Two gene sets of one module have a cosine near 1 in every patient; sets of two modules do not."""
    rng = np.random.default_rng(0)
    activity = rng.choice([-2.0, 2.0], (60, 2))
    values = activity[:, [0] * 10 + [1] * 10] + 0.5 * rng.normal(size=(60, 20))
    groups = GroupsConfig(groups=tuple(tuple(range(first, first + 5)) for first in (0, 5, 10, 15)), drop=0.0, heads=2)
    torch.manual_seed(0)
    tokens = GroupTokens(groups, 32)
    tokens.start_from(torch.from_numpy(loadings_of(values.astype(np.float32))))
    made, _ = tokens(torch.from_numpy(values.astype(np.float32)))
    unit = torch.nn.functional.normalize(made, dim=2)
    cosines = (unit @ unit.transpose(1, 2)).detach()
    assert float(cosines[:, 0, 1].min()) > 0.9
    assert float(cosines[:, 2, 3].min()) > 0.9
    assert float(cosines[:, 0, 2].mean()) < 0.7
