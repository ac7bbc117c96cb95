"""Pretraining of a text encoder on measured captions: it learns to predict the facts that words and digits state.

No patch, label or patient is used: facts are drawn at random, expressed in words by the lexicon, and predicted from
the text. A text encoder trained from scratch would otherwise have to learn from a few thousand labels that "indigo" is
bluer than "mauve" and 61 % is more than 16 %.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from wsikit.captions.in_slide import WORDS, rank_sentence
from wsikit.captions.lexicon import grades, phrase
from wsikit.facts import FACTS, TONE
from wsikit.models.encoders import TextEncoder
from wsikit.models.tokenizer import CaptionTokenizer
from wsikit.training.fitting import fit
from wsikit.training.settings import FitSettings

_ALONE = ("black_share", "grey_share")  # above half they end the sentence: such a patch cannot be described
_MOST_BLANK = 0.94

_TONE_TERMS = {FACTS[name].term for name in TONE}

VOCABULARY_FROM = 5000
"""Number of drawn captions that contains every word of the lexicon."""


def drawn_captions(
    n: int, *, mpp: float, seed: int, in_slide: bool = False
) -> tuple[tuple[str, ...], npt.NDArray[np.float32], tuple[str, ...]]:
    """Captions of random facts, as the measuring captioner writes them at `mpp` µm/px; with `in_slide`, as the
    captioner that describes patches relative to their slide.

    Returns
    -------
    captions : tuple of n str
    places : float32 (n, F)
        Position of each fact on the scale of its grades, 0 to 1; NaN where the caption does not state it. With
        `in_slide`, the facts' positions within the slide follow.
    names : tuple of F str
    """
    rng = np.random.default_rng(seed)
    names = tuple(name for name, fact in FACTS.items() if fact.term and fact.finest_mpp < mpp <= fact.coarsest_mpp)
    placed = tuple(WORDS) if in_slide else ()
    texts, places = [], np.full((n, len(names) + len(placed)), np.nan, dtype=np.float32)
    for row in range(n):
        drawn = {name: _draw(name, rng) for name in names}
        facts = {name: value for name, (value, _) in drawn.items()}
        facts |= {name: min(facts[name], 0.4) for name in _ALONE}
        facts["blank_share"] = min(facts["blank_share"], _MOST_BLANK)
        stated = grades(facts)
        text = phrase(facts, mpp)
        if placed and stated.keys() & _TONE_TERMS:
            stands = rng.uniform(-0.2, 1.2, len(placed))
            text += " " + rank_sentence(dict(zip(placed, stands.tolist(), strict=True)))
            places[row, len(names) :] = stands
        texts.append(text)
        for column, name in enumerate(names):
            if FACTS[name].term in stated:
                places[row, column] = drawn[name][1]
    return tuple(texts), places, names + tuple(f"{name} in the slide" for name in placed)


def _draw(name: str, rng: np.random.Generator) -> tuple[float, float]:
    """A value, with all grades equally likely, and its position on the scale."""
    fact = FACTS[name]
    limits = [limit for limit, _ in fact.grades[:-1]]
    last = 1.3 * limits[-1] if fact.unit != "share" else min(1.0, 2 * limits[-1])
    # material that is mostly absent is rarely stated; colour and nuclei always are
    common = name in TONE or fact.unit != "share" or rng.random() < 0.7
    grade = int(rng.integers(len(limits) + 1)) if common else 0
    within = float(rng.random())
    low, high = [0.0, *limits][grade], [*limits, last][grade]
    return low + within * (high - low), (grade + within) / (len(limits) + 1)


class Reader(nn.Module):
    """An encoder with a head that predicts the facts."""

    def __init__(
        self, encoder: TextEncoder, tokenizer: CaptionTokenizer, captions: tuple[str, ...], places: np.ndarray
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.width, places.shape[1])
        tokens = tokenizer(captions)
        self._ids, self._mask = torch.from_numpy(tokens.ids), torch.from_numpy(tokens.mask)
        self._places = torch.from_numpy(places)

    def read(self, rows: Tensor) -> Tensor:
        """Predicted positions of the facts, (B, F)."""
        mask = self._mask[rows]
        length = int(mask.sum(dim=1).max())
        device = next(self.head.parameters()).device
        places: Tensor = self.head(self.encoder(self._ids[rows, :length].to(device), mask[:, :length].to(device)))
        return places

    def forward(self, rows: Tensor) -> dict[str, Tensor]:
        found = self.read(rows.cpu())
        wanted = self._places[rows.cpu()].to(found.device)
        stated = ~wanted.isnan()
        return {"loss": ((found - wanted.nan_to_num()) ** 2)[stated].mean()}


def pretrain_text_encoder(
    encoder: TextEncoder,
    tokenizer: CaptionTokenizer,
    *,
    mpp: float,
    n: int,
    settings: FitSettings,
    seed: int,
    in_slide: bool = False,
) -> float:
    """Pretrain `encoder`, in place, on measured captions at `mpp` µm/px; with `in_slide`, relative to the slide.

    Returns
    -------
    float
        Explained variance of the facts on held-out captions (R², mean over the facts).
    """
    captions, places, _ = drawn_captions(n, mpp=mpp, seed=seed, in_slide=in_slide)
    torch.manual_seed(seed)
    reader = Reader(encoder, tokenizer, captions, places)
    fit(reader, n, settings, seed=seed)
    unseen, truth, _ = drawn_captions(512, mpp=mpp, seed=seed + 1, in_slide=in_slide)
    probe = Reader(encoder, tokenizer, unseen, truth)
    probe.head = reader.head
    with torch.inference_mode():
        found = probe.read(torch.arange(512)).cpu().numpy()
    stated = np.isfinite(truth).any(axis=0)  # where nuclei are stated, stains are not
    missed = np.nanmean((found - truth)[:, stated] ** 2, axis=0) / np.nanvar(truth[:, stated], axis=0)
    return float(1 - missed.mean())
