"""The slide vote against closed forms, and the cases in which it must not speak."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from wsikit.errors import RequestError
from wsikit.voting import METHODS, Evidence, SlideResult, ThresholdRule, VoteRule, vote, vote_inputs
from wsikit.voting.result import format_margin

FREE = {"min_patches": 0, "min_margin": 0}  # no abstention for want of patches or margin
RULE = ThresholdRule(1, t=0.4, min_frac=0.3)
COUNTING = ("topk", "noisy_or")
"""Methods whose result hangs on how many patches there are, by what they ask."""


def some_evidence(n_patches: int = 50, seed: int = 7) -> Evidence:
    rng = np.random.default_rng(seed)
    tissue = rng.dirichlet(np.ones(3), n_patches)
    return Evidence(gate=rng.random(n_patches), attention=rng.random(n_patches), key_tissue=tissue)


def of_rows(evidence: Evidence, rows) -> Evidence:
    return Evidence(evidence.gate[rows], evidence.attention[rows], evidence.key_tissue[rows])


def some_probs(n_patches: int = 50, n_classes: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.ones(n_classes), n_patches)


def test_the_weighted_mean_is_the_closed_form_of_two_patches():
    result = vote([[0.9, 0.1], [0.2, 0.8]], weights=[7, 0.1], **FREE)
    assert result.probs[0] == pytest.approx((7 * 0.9 + 0.1 * 0.2) / 7.1)
    assert result.n_effective == pytest.approx(7.1**2 / (49 + 0.01))
    assert result.label == 0


def test_equal_weights_are_the_plain_mean():
    probs = some_probs()
    assert vote(probs, weights=np.full(50, 0.3), **FREE).probs == pytest.approx(probs.mean(axis=0))
    assert vote(probs, **FREE).n_effective == pytest.approx(50)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scale", [1e-12, 0.37, 1e9])
def test_scaling_all_weights_changes_nothing(method, scale):
    probs, weights = some_probs(), np.random.default_rng(1).random(50)
    one, other = (
        vote(probs, method=method, weights=factor * weights, rule=VoteRule(rule=RULE), evidence=some_evidence())
        for factor in (1.0, scale)
    )
    assert other.probs == pytest.approx(one.probs)
    assert other.n_effective == pytest.approx(one.n_effective)
    assert (other.label, other.abstained, other.reason) == (one.label, one.abstained, one.reason)


@pytest.mark.parametrize("method", [method for method in METHODS if method not in COUNTING])
def test_counting_every_patch_twice_leaves_probabilities_and_margin(method):
    probs, evidence = some_probs(), some_evidence()
    once, twice = (
        vote(probs[rows], VoteRule(rule=RULE), evidence=of_rows(evidence, rows), method=method, **FREE)
        for rows in (np.arange(50), np.repeat(np.arange(50), 2))
    )
    assert twice.probs == pytest.approx(once.probs)
    assert twice.margin == pytest.approx(once.margin)


@pytest.mark.parametrize("method", METHODS)
def test_the_order_of_patches_does_not_matter(method):
    probs, weights, evidence = some_probs(), np.random.default_rng(5).random(50), some_evidence()
    forth, back = (
        vote(
            probs[rows], VoteRule(rule=RULE, k=5), weights=weights[rows], evidence=of_rows(evidence, rows),
            method=method, **FREE,
        )
        for rows in (np.arange(50), np.arange(50)[::-1])
    )  # fmt: skip
    assert back.probs == pytest.approx(forth.probs)


def test_a_hard_vote_counts_the_most_probable_classes():
    result = vote([[0.6, 0.4], [0.6, 0.4], [0.01, 0.99]], method="hard", **FREE)
    assert result.probs.tolist() == pytest.approx([2 / 3, 1 / 3])
    assert result.label == 0
    assert vote([[0.6, 0.4], [0.6, 0.4], [0.01, 0.99]], **FREE).label == 1


@pytest.mark.parametrize("flip", [False, True])
def test_a_hard_tie_is_broken_by_the_mean_probability_and_shows_no_margin(flip):
    probs = np.array([[0.6, 0.4], [0.1, 0.9]])
    result = vote(probs[:, ::-1] if flip else probs, method="hard", **FREE)
    assert result.label == (0 if flip else 1)
    assert result.margin == 0


def test_a_hard_tie_abstains_when_a_margin_is_asked_for_but_names_who_leads():
    result = vote([[0.6, 0.4], [0.1, 0.9]], method="hard", min_patches=0, min_margin=0.1)
    assert (result.label, result.leading, result.abstained) == (None, 1, True)
    assert "margin 0.000 is below 0.1" in result.reason


def test_a_torn_patch_gives_each_class_its_share_rather_than_all_to_the_first():
    assert vote([[0.5, 0.5]], method="hard", **FREE).probs.tolist() == [0.5, 0.5]


def test_confidence_weights_are_one_minus_relative_entropy_to_the_kappa():
    sure, unsure = [0.99, 0.01], [0.4, 0.6]
    weight = [1 - sum(-p * math.log(p) for p in row) / math.log(2) for row in (sure, unsure)]
    for kappa in (1.0, 2.5):
        a, b = (w**kappa for w in weight)
        expected = (a * 0.99 + b * 0.4) / (a + b)
        assert vote([sure, unsure], method="confidence", kappa=kappa, **FREE).probs[0] == pytest.approx(expected)


def test_undecided_patches_have_no_weight_in_a_confidence_vote():
    crowd = np.full((1000, 3), 1 / 3)
    result = vote(np.vstack([crowd, [[0.8, 0.1, 0.1]]]), method="confidence", **FREE)
    assert result.probs == pytest.approx([0.8, 0.1, 0.1])
    assert (result.n_patches, result.n_background) == (1, 1000)
    assert vote(crowd, method="confidence", **FREE).abstained


@pytest.mark.parametrize("method", METHODS)
def test_patches_without_prediction_do_not_vote_and_are_counted(method):
    probs = some_probs()
    holes = np.vstack([probs, np.full((7, 3), np.nan)])
    holes[-1, 0] = 0.5  # one NaN is enough
    evidence = some_evidence(57)
    rule = VoteRule(method, rule=RULE, k=5, **FREE)
    whole = vote(probs, rule, evidence=of_rows(evidence, np.arange(50)))
    holed = vote(holes, rule, evidence=evidence)
    assert holed.probs == pytest.approx(whole.probs)
    assert (holed.n_patches, holed.n_unpredicted) == (50, 7)


@pytest.mark.parametrize(
    ("probs", "weights", "words"),
    [
        (np.empty((0, 3)), None, "no patches"),
        (np.full((4, 3), np.nan), None, "all 4 are without prediction"),
        (some_probs(4), np.zeros(4), "all 4 have weight 0"),
    ],
)
def test_a_slide_where_no_patch_can_vote_abstains_and_says_why(probs, weights, words):
    result = vote(probs, weights=weights, **FREE)
    assert result.abstained
    assert result.label is None
    assert result.leading is None
    assert words in result.reason
    assert np.isnan(result.probs).all()
    assert result.n_effective == 0


def test_few_patches_abstain_and_so_do_many_of_which_one_weighs_all():
    probs = np.tile([0.9, 0.1], (40, 1))
    assert "19 effective patches, fewer than 20" in vote(probs[:19]).reason
    assert vote(probs[:20], weights=np.full(20, 0.1)).label == 0
    assert vote(probs, weights=[1000.0] + [0.01] * 39).abstained


def test_a_margin_just_below_the_limit_does_not_read_as_if_it_were_on_it():
    result = vote(np.tile([0.5498, 0.4502], (40, 1)), min_margin=0.1)
    assert "margin 0.099 is below 0.1" in result.reason


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"probs": [[2.0, -1.0]]}, "softmax"),
        ({"probs": [[3.0, 1.0]]}, "softmax"),
        ({"probs": [[np.inf, 0.0]]}, "softmax"),
        ({"probs": [0.5, 0.5]}, "patches, classes"),
        ({"probs": [[0.5, 0.5]], "weights": [-1.0]}, "0 or more"),
        ({"probs": [[0.5, 0.5]], "weights": [np.nan]}, "finite"),
        ({"probs": [[0.5, 0.5]], "weights": [1.0, 1.0]}, "expected"),
        ({"probs": [[0.5, 0.5]], "method": "loud"}, "mean, hard, log"),
        ({"probs": [[0.5, 0.5]], "min_margin": 2}, "between 0 and 1"),
        ({"probs": [[0.5, 0.5]], "min_patches": np.nan}, "min_patches"),
        ({"probs": [[0.5, 0.5]], "method": "confidence", "kappa": 0}, "kappa"),
    ],
)
def test_what_is_no_vote_is_refused_with_what_to_do(arguments, words):
    with pytest.raises(RequestError, match=words):
        vote(**arguments)


@pytest.mark.parametrize("probs", [some_probs(), np.full((3, 3), np.nan)])
def test_a_result_survives_strict_json(probs):
    result = vote(probs, method="confidence")
    back = SlideResult.from_json(json.loads(json.dumps(result.to_json(), allow_nan=False)))
    assert back.to_json() == result.to_json()
    assert np.array_equal(back.probs, result.probs, equal_nan=True)


def test_background_takes_weight_away_and_not_probability():
    inputs = vote_inputs([[0.3, 0.1, 0.6], [0.6, 0.2, 0.2]], ("PD", "D", "other"), background=("other",))
    assert inputs.classes == ("PD", "D")
    assert inputs.probs == pytest.approx(np.array([[0.75, 0.25], [0.75, 0.25]]))
    assert inputs.weights == pytest.approx([0.0, 0.8])
    assert inputs.labels.tolist() == [2, 0]


def test_a_patch_that_is_more_tumour_than_background_votes_and_is_mapped_as_tumour():
    """The likeliest single class is background, but the tumour classes together outweigh it."""
    inputs = vote_inputs([[0.30, 0.25, 0.45]], ("UD", "PD", "other"), background=("other",))
    assert inputs.weights == pytest.approx([0.55])
    assert inputs.labels.tolist() == [0]


def test_a_slide_of_background_only_abstains():
    inputs = vote_inputs(np.tile([0.03, 0.001, 0.969], (5000, 1)), ("UD", "PD", "other"), background=("other",))
    result = vote(inputs.probs, weights=inputs.weights)
    assert result.abstained
    assert "all 5000 have weight 0" in result.reason


def test_patches_without_prediction_have_neither_weight_nor_label():
    inputs = vote_inputs([[np.nan, 0.5, 0.5], [0.0, 0.0, 1.0]], ("UD", "PD", "other"), background=("other",))
    assert np.isnan(inputs.weights[0])
    assert np.isnan(inputs.probs[0]).all()
    assert inputs.labels.tolist() == [-1, 2]
    assert vote(inputs.probs, weights=inputs.weights, **FREE).n_unpredicted == 1


def test_without_background_every_class_votes_with_weight_one():
    probs = some_probs()
    inputs = vote_inputs(probs, ("UD", "PD", "D"))
    assert inputs.probs == pytest.approx(probs)
    assert inputs.weights == pytest.approx(np.ones(50))
    assert inputs.labels.tolist() == probs.argmax(axis=1).tolist()


@pytest.mark.parametrize("background", [("stroma",), ("UD", "PD", "D")])
def test_a_background_that_is_unknown_or_all_there_is_is_refused(background):
    with pytest.raises(RequestError):
        vote_inputs(some_probs(), ("UD", "PD", "D"), background=background)


def test_a_result_shows_class_margin_and_interval_and_escapes_its_codes():
    result = vote(np.tile([0.9, 0.1], (30, 1)), classes=["PD", "<b>"])
    assert repr(result) == "<SlideResult PD, margin 0.80 (PD 0.90, <b> 0.10), 30 patches>"
    page = result._repr_html_()
    assert "<b>PD</b>" in page
    assert "&lt;b&gt;" in page
    assert "0.90" in page
    assert "Not for diagnosis" in page


def test_an_abstention_shows_its_reason():
    result = vote(np.full((3, 2), np.nan), classes=["PD", "D"])
    assert "abstained: no patch could vote: all 3 are without prediction" in repr(result)
    assert "No subtype called" in result._repr_html_()


def test_the_result_keeps_the_class_codes_and_reads_them_back():
    result = vote(np.tile([0.9, 0.1], (30, 1)), classes=["PD", "D"])
    assert (result.subtype, SlideResult.from_json(result.to_json()).classes) == ("PD", ("PD", "D"))
    assert vote([[0.9, 0.1]] * 30).codes == ("class 0", "class 1")
    with pytest.raises(RequestError, match="3 class codes for probabilities of 2 classes"):
        vote([[0.9, 0.1]], classes=["UD", "PD", "D"])


@pytest.mark.parametrize("margin", [0.0645, 0.0649999, 0.06450001, 0.29, 0.2999999])
def test_every_text_of_a_margin_is_made_by_one_function(margin: float) -> None:
    """The reason of an abstention and the report have the same digits, also after the rounding of a table."""
    assert format_margin(margin, 3) == format_margin(round(margin, 4), 3)
    assert format_margin(margin, 3).startswith(format_margin(margin, 2))
