"""From patch probabilities to one statement per slide. NumPy only: no store, no pixels, no torch."""

from wsikit.voting.inputs import VoteInputs, vote_inputs
from wsikit.voting.vote import METHODS, SlideResult, vote

__all__ = ["METHODS", "SlideResult", "VoteInputs", "vote", "vote_inputs"]
