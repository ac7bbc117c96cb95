"""A vocabulary follows from its captions alone."""

from __future__ import annotations

import subprocess
import sys

from wsikit.models.tokenizer import CaptionTokenizer

CODE = """
from wsikit.models.tokenizer import CaptionTokenizer
words = [a + b + c for a in "pqrs" for b in "aeiou" for c in "lmnt"]  # all pairs of letters equally frequent
captions = [f"{one} {other}, 12 %" for one, other in zip(words, reversed(words))]
tokens = CaptionTokenizer.train(captions, vocabulary=90, max_tokens=32)
print(tokens.vocabulary, tokens(captions).ids.tolist())
"""


def test_every_process_learns_the_same_ids_from_the_same_captions() -> None:
    runs = [subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True) for _ in range(4)]
    said = {run.stdout for run in runs}
    assert len(said) == 1
    assert said.pop().startswith("90 ")


def test_digits_are_read_one_by_one_case_does_not_matter_and_unseen_characters_are_unknown() -> None:
    tokenizer = CaptionTokenizer.train(["Tone: rose 12 %", "tone rose 34 %"], vocabulary=60, max_tokens=16)
    ids = tokenizer(["tone rose 1 2 %", "TONE ROSE 12%", "tone rose ж"]).ids
    assert ids[0].tolist() == ids[1].tolist()
    assert 1 in ids[2].tolist()  # [UNK]
    assert 1 not in ids[0].tolist()
