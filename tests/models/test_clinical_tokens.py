"""Clinical rows as tokens, and the bidirectional block: what is missing has no effect, what is there is used."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from wsikit.errors import RequestError
from wsikit.models.bidirectional import BidirectionalBlock, BidirectionalFusion
from wsikit.models.clinical_tokens import ClinicalColumns, ClinicalRows, ClinicalTokens

COLUMNS = ClinicalColumns(("age", "ploidy"), (("MYCN", ("amplified", "normal")), ("sex", ("F", "M"))))
ROWS = [
    {"age": 14.0, "ploidy": 1.2, "MYCN": "normal", "sex": "F"},
    {"age": "n/a", "ploidy": 1.0, "MYCN": "amplified", "sex": None},
    {"sex": "M"},
    {},
]


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def fusion(columns: ClinicalColumns = COLUMNS, **options) -> BidirectionalFusion:
    torch.manual_seed(0)
    return BidirectionalFusion(features=6, columns=columns, classes=2, dim=16, heads=2, **options).eval()


def answers(model: BidirectionalFusion, rows: ClinicalRows, bags: torch.Tensor | None = None) -> torch.Tensor:
    bags = random(len(rows.values), 5, 6) if bags is None else bags
    with torch.no_grad():
        return model(bags, torch.ones(bags.shape[:2], dtype=torch.bool), rows)


@pytest.mark.parametrize("fill", [0.0, 1e9, float("nan"), float("inf")])
def test_a_missing_value_changes_nothing_however_it_is_filled(fill):
    rows, model = COLUMNS.read(ROWS), fusion()
    model.clinical.fit(rows)
    n = len(COLUMNS.numeric)
    values = torch.where(rows.present[:, :n], rows.values, fill)
    codes = torch.where(rows.present[:, n:], rows.codes, 1)
    filled = answers(model, ClinicalRows(values, codes, rows.present))
    assert torch.equal(filled, answers(model, rows))
    assert filled.isfinite().all()


def test_a_missing_value_is_not_the_mean_value():
    rows = COLUMNS.read([{**ROWS[0], "age": 14.0}, {**ROWS[0], "age": None}])
    model = fusion()
    model.clinical.fit(COLUMNS.read([ROWS[0]]))  # 14 is the mean: its token is the column's own
    present, missing = answers(model, rows, random(1, 5, 6).expand(2, -1, -1))
    assert (present - missing).abs().max() > 1e-4


def test_a_column_that_is_missing_everywhere_might_as_well_not_exist():
    less = ClinicalColumns(("age",), COLUMNS.categorical)
    whole, part = fusion(), fusion(less)
    state = {
        name: value[[0, 2, 3]] if name == "clinical.column" else value[:1]
        if name in ("clinical.direction", "clinical.mean", "clinical.sd") else value
        for name, value in whole.state_dict().items()
    }  # fmt: skip
    part.load_state_dict(state)
    rows = [{name: value for name, value in row.items() if name != "ploidy"} for row in ROWS]
    torch.testing.assert_close(answers(whole, COLUMNS.read(rows)), answers(part, less.read(rows)))


def test_the_order_of_cells_and_of_columns_does_not_matter():
    rows = COLUMNS.read(ROWS)
    backwards = COLUMNS.read([dict(reversed(list(row.items()))) for row in ROWS])
    assert torch.equal(rows.values, backwards.values)
    assert torch.equal(rows.codes, backwards.codes)
    turned = ClinicalColumns(("ploidy", "age"), COLUMNS.categorical[::-1])
    model, other = fusion(), fusion(turned)
    state = model.state_dict()
    state["clinical.column"] = state["clinical.column"][[1, 0, 3, 2]]
    for name in ("direction", "mean", "sd"):
        state[f"clinical.{name}"] = state[f"clinical.{name}"].flip(0)
    zero, one = "clinical.categories.0.weight", "clinical.categories.1.weight"
    state[zero], state[one] = state[one], state[zero]
    other.load_state_dict(state)
    torch.testing.assert_close(answers(other, turned.read(ROWS)), answers(model, rows))


def test_the_order_of_patches_and_padding_does_not_matter():
    model, rows, bags = fusion(), COLUMNS.read(ROWS), random(4, 5, 6)
    seen = torch.arange(5)[None, :] < torch.tensor([5, 3, 1, 4])[:, None]
    with torch.no_grad():
        wanted = model(bags, seen, rows)
        order = torch.tensor([3, 0, 4, 2, 1])
        torch.testing.assert_close(model(bags[:, order], seen[:, order], rows), wanted)
        torch.testing.assert_close(model(bags.masked_fill(~seen[..., None], float("nan")), seen, rows), wanted)


def test_numbers_are_standardised_by_the_rows_they_were_fitted_on():
    tokens = ClinicalTokens(COLUMNS, 8)
    tokens.fit(COLUMNS.read([{"age": 10}, {"age": 30}, {"ploidy": 2.0}]))
    assert tokens.mean.tolist() == [20.0, 2.0]
    assert tokens.sd.tolist() == [10.0, 1.0]  # one value has no spread
    found, _ = tokens(COLUMNS.read([{"age": 40}]))
    torch.testing.assert_close(found[0, 1], tokens.column[0] + 2 * tokens.direction[0])


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"age": "old"}, "row 1, column 'age': 'old' is not a number; leave it empty"),
        ({"age": "inf"}, "row 1, column 'age': 'inf' is not a finite number"),
        ({"MYCN": "gain"}, "row 1, column 'MYCN': 'gain' is none of amplified, normal"),
    ],
)
def test_a_wrong_cell_is_named(row, said):
    with pytest.raises(RequestError, match=said):
        COLUMNS.read([row])


def test_columns_must_differ_and_have_categories():
    with pytest.raises(RequestError, match="each once"):
        ClinicalColumns(("age", "age"))
    with pytest.raises(RequestError, match="at least one"):
        ClinicalColumns()
    with pytest.raises(RequestError, match="'sex': categories"):
        ClinicalColumns(categorical=(("sex", ()),))


def test_the_block_is_the_mean_of_self_and_cross_attention():
    """One head and identity weights: softmax(q kᵀ / √d) v of either side, by hand."""
    block = BidirectionalBlock(4, heads=1, hidden=8).eval()
    with torch.no_grad():
        for qkv, out, feed in zip(block.qkv, block.out, block.feed):
            qkv.weight.copy_(torch.eye(4).repeat(3, 1))
            out.weight.copy_(torch.eye(4))
            qkv.bias.zero_(), out.bias.zero_(), feed[-1].weight.zero_(), feed[-1].bias.zero_()
        a, b = random(1, 3, 4), random(1, 2, 4, seed=1)
        seen_a, seen_b = torch.ones(1, 3, dtype=torch.bool), torch.tensor([[True, False]])
        new_a, new_b = block(a, b, seen_a, seen_b)
    x, y = functional.layer_norm(a, (4,)), functional.layer_norm(b, (4,))

    def attend(query, key):
        return (query @ key.transpose(1, 2) / 2).softmax(dim=-1) @ key

    only = y[:, :1]  # the second token of b is masked
    torch.testing.assert_close(new_a, a + 0.5 * (attend(x, x) + attend(x, only)))
    torch.testing.assert_close(new_b, b + 0.5 * (attend(y, only) + attend(y, x)))


def test_published_has_one_output_projection_for_both_sides():
    ours, published = (BidirectionalBlock(8, heads=2, hidden=8, published=p) for p in (False, True))
    assert (len(ours.out), len(published.out)) == (2, 1)
    with pytest.raises(ValueError, match="multiple of the heads"):
        BidirectionalBlock(8, heads=3, hidden=8)


def test_a_class_that_needs_both_the_patch_and_the_clinical_value_is_learnt():
    """Class = (a marked patch is in the bag) XOR (age above 18): either alone is at chance."""
    columns = ClinicalColumns(("age",), (("sex", ("F", "M")),))
    generator = torch.Generator().manual_seed(0)
    n, marked = 450, torch.randint(2, (450,), generator=generator)
    bags = 0.5 * torch.randn(n, 4, 4, generator=generator)
    bags[torch.arange(n), torch.randint(4, (n,), generator=generator), 0] += 3.0 * marked
    age = 36 * torch.rand(n, generator=generator)
    truth = marked ^ (age > 18).long()
    known = torch.rand(n, generator=generator) < 0.9
    rows = columns.read([{"age": a if k else None, "sex": "F"} for a, k in zip(age.tolist(), known.tolist())])
    seen = torch.ones(n, 4, dtype=torch.bool)
    torch.manual_seed(0)
    model = BidirectionalFusion(features=4, columns=columns, classes=2, dim=16, heads=2, depth=0, dropout=0.0)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)

    def of(where, present=None):
        shown = rows.present[where] if present is None else present
        part = ClinicalRows(rows.values[where], rows.codes[where], shown)
        return model(bags[where], seen[where], part)

    train, test = torch.arange(300), torch.arange(300, n)
    model.clinical.fit(ClinicalRows(rows.values[train], rows.codes[train], rows.present[train]))
    for _ in range(80):
        optimiser.zero_grad()
        functional.cross_entropy(of(train), truth[train]).backward()
        optimiser.step()
    with torch.no_grad():
        test = test[known[test]]
        correct = (of(test).argmax(dim=1) == truth[test]).float().mean().item()
        hidden = of(test, torch.zeros(len(test), 2, dtype=torch.bool)).argmax(dim=1)
    assert correct > 0.9
    assert (hidden == truth[test]).float().mean().item() < 0.65  # without age nothing can be known
