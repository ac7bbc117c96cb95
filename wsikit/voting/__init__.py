"""From patch probabilities to one result per slide. No store, no pixels, no torch."""

from wsikit.voting.inputs import VoteInputs, vote_inputs
from wsikit.voting.parameters import METHODS, SMOOTHINGS, WEIGHTS, ThresholdRule, VoteParameters, VoteRule
from wsikit.voting.regions import Places
from wsikit.voting.result import Areas, Interval, RuleOutcome, SecondSubtype, ShareInterval, SlideResult
from wsikit.voting.slide import SlidePatches, vote_slide, voting_inputs
from wsikit.voting.smoothing import smooth
from wsikit.voting.vote import Evidence, vote

__all__ = [
    "METHODS",
    "SMOOTHINGS",
    "WEIGHTS",
    "Areas",
    "Evidence",
    "Interval",
    "Places",
    "RuleOutcome",
    "SecondSubtype",
    "ShareInterval",
    "SlidePatches",
    "SlideResult",
    "ThresholdRule",
    "VoteInputs",
    "VoteParameters",
    "VoteRule",
    "smooth",
    "vote",
    "vote_inputs",
    "vote_slide",
    "voting_inputs",
]
