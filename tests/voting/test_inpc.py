"""INPC's rules on small tables whose category is plain to see, at each limit, and with facts left out."""

from __future__ import annotations

import json

import numpy as np
import pytest

from wsikit.errors import RequestError
from wsikit.voting.inpc import InpcResult, Rules, disagreement, inpc
from wsikit.voting.inpc_facts import PatchFacts, facts_from_captions, facts_from_classes
from wsikit.voting.prognosis import Clinical, Mki, mki_class, neuroblastoma_group

PITCH_MM = 0.1


def square(n: int = 60) -> np.ndarray:
    """Columns and rows of n × n patches, row-major."""
    y, x = np.mgrid[:n, :n]
    return np.stack([x.ravel(), y.ravel()], axis=1)


def table(
    *, stroma: float | None = 0.1, neuropil: float | None = 0.6, differentiating: float | None = 0.0, n: int = 60
) -> PatchFacts:
    """36 mm² of tumour of one kind, each patch like all others but for neuropil, which a share of them shows.

    Every hundredth patch in order is one of those that show it, so that they lie everywhere.
    """
    cells, area = square(n), PITCH_MM**2
    shown = None if neuropil is None else np.where(np.arange(n * n) % 100 < round(100 * neuropil), 2.0, 0.0)
    return PatchFacts(
        cells=cells,
        pitch_mm=PITCH_MM,
        neuroblastic_mm2=np.full(n * n, area * (1 - (stroma or 0))),
        stroma_mm2=None if stroma is None else np.full(n * n, area * stroma),
        neuropil=shown,
        differentiating=None if differentiating is None else np.full(n * n, 100.0 * differentiating),
        neuroblasts=None if differentiating is None else np.full(n * n, 100.0),
    )


@pytest.mark.parametrize(
    ("facts", "category"),
    [
        ({"neuropil": 0.0}, "UD"),
        ({"neuropil": 0.0, "differentiating": 0.3}, "UD"),  # § 4: without neuropil UD comes first
        ({"neuropil": 0.01}, "UD"),  # one patch in a hundred may err
        ({"neuropil": 0.02}, "PD"),
        ({"differentiating": 0.049}, "PD"),
        ({"differentiating": 0.05}, "PD"),  # exactly 5 %: D is more than that
        ({"differentiating": 0.051}, "D"),
        ({"differentiating": 0.08}, "D"),
        ({"stroma": 0.5}, "PD"),  # exactly half is not more than half
        ({"stroma": 0.51, "differentiating": 0.3}, "GN"),  # every patch is stroma-rich: no focus
    ],
)
def test_the_category_follows_from_the_shares(facts, category):
    assert inpc(table(**facts)).category == category


def test_8_percent_differentiating_is_d_though_the_majority_votes_pd():
    statement = inpc(table(differentiating=0.08))
    said = disagreement(statement, "PD")
    assert "PD" in said
    assert "rule says D" in said
    assert "8.0 %" in said
    assert disagreement(statement, "D") == ""
    assert disagreement(statement, None, reason="margin 0.02 is below 0.1").endswith(
        "abstained: margin 0.02 is below 0.1."
    )
    assert "no category: neuropil was not measured" in disagreement(inpc(table(neuropil=None)), "PD")


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"differentiating": 0.04}, "4–6 %: PD or D"),
        ({"differentiating": 0.06}, "4–6 %: PD or D"),
        ({"stroma": 0.45}, "45–55 %: stroma-poor or stroma-rich"),
        ({"stroma": 0.55}, "45–55 %: stroma-poor or stroma-rich"),
        ({"neuropil": 0.02}, "0.5–2 %: UD or PD"),
    ],
)
def test_values_near_a_limit_are_flagged(facts, said):
    assert any(said in flag for flag in inpc(table(**facts)).borderline)


@pytest.mark.parametrize(
    "facts", [{"differentiating": 0.039}, {"differentiating": 0.061}, {"stroma": 0.44}, {"stroma": 0.56}]
)
def test_values_far_from_the_limits_are_not_flagged(facts):
    assert inpc(table(**facts)).borderline == ()


def test_a_limit_within_the_interval_is_flagged_however_far_the_value_lies():
    facts = table()
    in_a_corner = (square() < 15).all(axis=1)
    facts = PatchFacts(**{**vars(facts), "differentiating": np.where(in_a_corner, 50.0, 0.0)})  # 3.1 %, in one place
    statement = inpc(facts, rules=Rules(block_mm=1.0))
    assert statement.category == "PD"
    share = statement.evidence["differentiating"]
    assert share.value == pytest.approx(0.5 * 15**2 / 60**2)
    assert share.low < 0.05 < share.high
    assert any("within its interval" in flag for flag in statement.borderline)


def nodular(side: int, *, differentiating: float = 0.0, outlined: bool = False) -> PatchFacts:
    """Stroma-rich tumour, 80 %, with a stroma-poor square of `side` patches and neuropil in its middle."""
    cells = square()
    inside = ((cells >= 20) & (cells < 20 + side)).all(axis=1)
    area = PITCH_MM**2
    return PatchFacts(
        cells=cells,
        pitch_mm=PITCH_MM,
        neuroblastic_mm2=np.where(inside, 0.9, 0.2) * area,
        stroma_mm2=np.where(inside, 0.1, 0.8) * area,
        neuropil=np.where(inside, 2.0, 0.0),
        differentiating=np.where(inside, 100 * differentiating, 50.0),
        neuroblasts=np.full(len(cells), 100.0),
        nodules=np.where(inside, 0, -1) if outlined else None,
    )


@pytest.mark.parametrize(("side", "category"), [(0, "GN"), (2, "GNB-I"), (19, "GNB-I"), (20, "GNB-N?")])
def test_foci_and_nodules_distinguish_ganglioneuroblastomas(side, category):
    statement = inpc(nodular(side))  # 20 × 20 patches are 4 mm²
    assert statement.category == category
    assert len(statement.nodules) == (category == "GNB-N?")


def test_two_small_foci_that_do_not_touch_are_no_nodule():
    facts = nodular(19)
    apart = (facts.cells[:, 0] % 2 == 0) & (facts.cells[:, 1] % 2 == 0)
    poor = np.where(apart, 0.1, 0.8) * PITCH_MM**2
    scattered = PatchFacts(**{**vars(facts), "stroma_mm2": poor, "neuroblastic_mm2": PITCH_MM**2 - poor})
    assert inpc(scattered).category == "GNB-I"


def test_an_outlined_nodule_is_no_suspicion_and_is_graded_by_itself():
    statement = inpc(nodular(20, differentiating=0.02, outlined=True), clinical=Clinical(17, "low"))
    assert statement.category == "GNB-N"
    assert statement.nodules[0].category == "PD"  # around it half of the cells are differentiating
    assert statement.nodules[0].area_mm2 == pytest.approx(4.0)
    assert statement.group == "FH"
    suspected = inpc(nodular(20, differentiating=0.02), clinical=Clinical(17, "low"))
    assert suspected.group is None
    assert any("no macroscopic nodule outlined" in flag for flag in suspected.borderline)


@pytest.mark.parametrize(
    ("facts", "clinical", "missing"),
    [
        ({}, Clinical(), ("age at diagnosis", "MKI", "treatment before the tissue was taken")),
        ({}, Clinical(12, "low", False), ()),
        ({}, Clinical(12, Mki(10, 4999), False), ("MKI: counted on 4,999 cells, 5,000 are needed",)),
        ({"stroma": None}, Clinical(12, "low", False), ("Schwannian stroma (not measured)",)),
        ({"differentiating": None}, Clinical(12, "low", False), ("differentiating neuroblasts (not measured)",)),
        ({"neuropil": None}, Clinical(12, "low", False), ("neuropil (not measured)",)),
    ],
)
def test_missing_items_are_listed(facts, clinical, missing):
    assert inpc(table(**facts), clinical=clinical).missing == missing


def test_missing_facts_give_no_category_and_no_group():
    known = Clinical(12, "low", False)
    without_cells = inpc(table(differentiating=None), clinical=known)
    assert (without_cells.category, without_cells.group) == (None, None)
    assert "PD and D cannot be distinguished" in without_cells.reason
    assert inpc(table(neuropil=0.0, differentiating=None), clinical=known).category == "UD"
    assumed = inpc(table(stroma=None), clinical=known)
    assert (assumed.category, assumed.group) == ("PD", None)
    assert assumed.assumptions == ("stroma-poor (Schwannian stroma below 50 %)",)


@pytest.mark.parametrize("clinical", [Clinical(12), Clinical(mki="low"), Clinical(12, Mki(1, 4000)), Clinical()])
def test_no_group_without_age_and_mki(clinical):
    for facts in (table(), nodular(2), nodular(0)):
        assert inpc(facts, clinical=clinical).group is None


def test_a_treated_tumour_gets_no_category():
    statement = inpc(table(), clinical=Clinical(12, "low", True))
    assert (statement.category, statement.group) == (None, None)
    assert "treated" in statement.reason
    assert statement.evidence["neuropil"].value == pytest.approx(0.6)


def test_too_little_tumour_gives_no_category():
    assert inpc(table(n=5)).category == "PD"  # 0.25 mm²
    statement = inpc(table(n=4))
    assert statement.category is None
    assert "0.16 mm² of tumour" in statement.reason
    assert inpc(table(n=0)).category is None


@pytest.mark.parametrize(
    ("category", "age", "mki", "group"),
    [
        # the whole table of § 3
        ("PD", 17.99, "low", "FH"), ("PD", 17.99, "intermediate", "FH"), ("PD", 17.99, "high", "UH"),
        ("D", 17.99, "low", "FH"), ("D", 17.99, "intermediate", "FH"), ("D", 17.99, "high", "UH"),
        ("UD", 1, "low", "UH"),
        ("D", 18, "low", "FH"), ("D", 18, "intermediate", "UH"), ("D", 59.9, "high", "UH"),
        ("PD", 18, "low", "UH"), ("UD", 59.9, "low", "UH"),
        ("D", 60, "low", "UH"), ("PD", 60, "low", "UH"),
    ],
)  # fmt: skip
def test_the_group_follows_age_category_and_mki(category, age, mki, group):
    assert neuroblastoma_group(category, age, mki) == group


def test_stroma_rich_tumours_are_favourable_whatever_the_age_once_all_is_known():
    assert inpc(nodular(2), clinical=Clinical(200, "low")).group == "FH"
    assert inpc(nodular(0), clinical=Clinical(200, "low")).group == "FH"


def test_of_several_nodules_the_least_favourable_counts():
    facts = nodular(20, differentiating=0.2)
    second = (facts.cells >= 50).all(axis=1)
    numbers = np.where(second, 1, np.where(facts.stroma_mm2 < 0.5 * PITCH_MM**2, 0, -1))
    two = PatchFacts(**{**vars(facts), "nodules": numbers})
    statement = inpc(two, clinical=Clinical(24, "low"))
    assert [nodule.category for nodule in statement.nodules] == ["D", "UD"]
    assert statement.group == "UH"
    one = PatchFacts(**{**vars(facts), "nodules": np.where(second, -1, numbers)})
    assert inpc(one, clinical=Clinical(24, "low")).group == "FH"


@pytest.mark.parametrize(
    ("count", "reading", "borderline"),
    [
        (89, "low", True), (99, "low", True), (100, "intermediate", True), (200, "intermediate", True),
        (201, "high", True), (190, "intermediate", True), (210, "high", True),
        (50, "low", False), (145, "intermediate", False), (300, "high", False),
    ],
)  # fmt: skip
def test_mki_per_5000_with_its_borders(count, reading, borderline):
    mki = Mki(count, 5000)
    assert mki.reading == reading == mki_class(count)
    assert bool(mki.borderline) == borderline
    assert any("MKI" in flag for flag in inpc(table(), clinical=Clinical(mki=mki)).borderline) == borderline


def test_the_mki_interval_is_wilsons():
    from scipy.stats import binomtest

    expected = binomtest(120, 6000).proportion_ci(method="wilson")
    np.testing.assert_allclose(Mki(120, 6000).interval, (5000 * expected.low, 5000 * expected.high))


def test_intervals_cover_the_truth_of_tissue_that_varies_from_place_to_place():
    """100 slides whose squares of 0.5 mm differ: the 95 % interval misses the true share in few."""
    rng, cells = np.random.default_rng(0), square(50)
    block_of = (cells // 5) @ np.array([1, 10])
    held = 0
    for _ in range(100):
        share = rng.beta(0.6, 9.4, size=100)[block_of]  # 6 % on average
        facts = PatchFacts(
            cells=cells,
            pitch_mm=PITCH_MM,
            neuroblastic_mm2=np.full(2500, 0.01),
            neuropil=np.ones(2500),
            differentiating=rng.binomial(80, share).astype(float),
            neuroblasts=np.full(2500, 80.0),
        )
        found = inpc(facts).evidence["differentiating"]
        held += found.low <= 0.06 <= found.high
    assert 88 <= held <= 99


def test_too_few_blocks_give_no_interval():
    assert inpc(table(n=10)).evidence["neuropil"].low is None  # 1 mm², four squares
    assert "no interval: 4 blocks" in "\n".join(inpc(table(n=10)).words())


def test_areas_weigh_and_glass_does_not():
    facts = table(differentiating=0.1)
    left = facts.cells[:, 0] < 30
    halved = PatchFacts(
        **{
            **vars(facts),
            "stroma_mm2": np.where(left, 0.9, 0.0) * PITCH_MM**2,
            "neuroblastic_mm2": np.where(left, 0.1, 0.0) * PITCH_MM**2,  # the right half is no tumour
        }
    )
    assert inpc(halved).evidence["stroma"].value == pytest.approx(0.9)  # of the tumour, not of the tissue
    assert inpc(halved).tumour_mm2 == pytest.approx(18.0)


def test_the_top_rows_have_the_strongest_evidence():
    facts = table()
    cells_of = np.zeros(3600)
    cells_of[[7, 3000, 15]] = 30, 60, 10
    found = inpc(PatchFacts(**{**vars(facts), "differentiating": cells_of})).top_rows
    assert found["differentiating"] == (3000, 7, 15)
    assert len(found["neuropil"]) == 5


def test_an_inpc_result_survives_json():
    for facts in (table(), nodular(20), table(n=4), table(stroma=None, neuropil=None)):
        statement = inpc(facts, clinical=Clinical(12, Mki(100, 5000)))
        assert InpcResult.from_json(json.loads(json.dumps(statement.to_json()))) == statement
    assert Clinical.from_json(json.loads(json.dumps(Clinical(12, Mki(1, 9)).to_json()))) == Clinical(12, Mki(1, 9))


def test_class_probabilities_are_used_as_named_proxies():
    cells = square(20)
    probs = np.tile([0.1, 0.8, 0.1, 0.0], (400, 1))
    probs[:100] = [0.0, 0.1, 0.9, 0.0]
    probs[300:] = [0.1, 0.1, 0.1, 0.7]  # background
    probs[299] = np.nan
    facts = facts_from_classes(probs, ("UD", "PD", "D", "other"), ("other",), cells=cells, pitch_mm=PITCH_MM)
    statement = inpc(facts)
    assert statement.category == "D"
    assert statement.evidence["differentiating"].value == pytest.approx(100 / 299)
    assert statement.tumour_mm2 == pytest.approx(2.99)
    assert "area proxy" in statement.proxies["differentiating"]
    assert statement.assumptions
    assert "Schwannian stroma (not measured)" in statement.missing
    with pytest.raises(RequestError, match="UD, PD, D"):
        facts_from_classes(np.ones((1, 2)) / 2, ("benign", "IDC"), cells=cells[:1], pitch_mm=PITCH_MM)


def test_facts_of_captions_are_areas_and_cells():
    names = ["tissue_share", "necrosis_share", "spindle_share", "fibrillary_share", "nuclei", "ganglion_like_share"]
    values = np.array(
        [
            [1.0, 0.2, 0.3, 0.20, 50, 0.1],
            [0.5, 0.0, 0.0, 0.05, 20, 0.0],
            [1.0, 0.0, np.nan, np.nan, np.nan, np.nan],  # blurred: colours alone
            [np.nan] * 6,
        ]
    )
    facts = facts_from_captions(values, names, cells=square(2), pitch_mm=0.1, tumour=[1.0, 0.5, 1.0, 1.0])
    np.testing.assert_allclose(facts.neuroblastic_mm2, [0.005, 0.0025, 0.01, 0.0])
    np.testing.assert_allclose(facts.stroma_mm2, [0.003, 0.0, np.nan, np.nan])
    np.testing.assert_array_equal(facts.neuropil, [2, 0, np.nan, np.nan])
    np.testing.assert_allclose(facts.differentiating, [5.0, 0.0, np.nan, np.nan])
    np.testing.assert_allclose(facts.neuroblasts, [50.0, 10.0, np.nan, np.nan])
    assert set(facts.proxies) == {"stroma", "neuropil", "differentiating", "tumour"}
    coarse = facts_from_captions(values[:, :1], names[:1], cells=square(2), pitch_mm=0.1)
    assert coarse.stroma_mm2 is coarse.neuropil is coarse.neuroblasts is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"pitch_mm": 0.0},
        {"neuropil": np.full(3600, 4.0)},
        {"neuroblasts": None},
        {"stroma_mm2": np.full(3600, -0.1)},
        {"stroma_mm2": np.zeros(5)},
    ],
)
def test_facts_that_cannot_be_are_refused(wrong):
    with pytest.raises(RequestError):
        PatchFacts(**{**vars(table()), **wrong})
    with pytest.raises(RequestError):
        Mki(6, 5)
    with pytest.raises(RequestError):
        Clinical(mki="medium")


def test_the_rules_are_quick_on_a_million_patches():
    cells = square(1000)
    facts = nodular(20)
    big = PatchFacts(
        cells=cells,
        pitch_mm=0.1,
        **{
            name: np.resize(getattr(facts, name), len(cells))
            for name in ("neuroblastic_mm2", "stroma_mm2", "neuropil", "differentiating", "neuroblasts")
        },
    )
    assert inpc(big).tumour_mm2 == pytest.approx(10_000)
