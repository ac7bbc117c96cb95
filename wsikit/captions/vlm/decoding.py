"""From prompts to token ids, so that a caption depends on its own patch alone and never on its neighbours.

Arithmetic in a batch rounds otherwise than alone. Where two words are so close that rounding could decide between
them, the patch is captioned again on its own; what it says on its own is its caption, by definition.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from wsikit.errors import RequestError

MARGIN = {torch.float32: 2e-3, torch.float16: 0.1, torch.bfloat16: 0.5}
"""Lead of the best word over the second, in logits, below which a patch is captioned again on its own. Far above what
rounding did in float32 (some 1e-5); in bfloat16 two or three roundings of a logit around 20."""


@dataclass(frozen=True)
class Sampling:
    """Draw words at random instead of taking the likeliest. The draw follows from the seed and the patch's pixels."""

    seed: int
    temperature: float = 0.7

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise RequestError(f"temperature {self.temperature}: must be above 0; for no randomness leave sampling out")


@dataclass(frozen=True)
class Decoding:
    """How words are chosen."""

    max_new_tokens: int = 128
    sample: Sampling | None = None

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise RequestError(f"max_new_tokens {self.max_new_tokens}: must be at least 1")

    def to_json(self) -> dict[str, Any]:
        """For a fingerprint."""
        return {
            "method": "sample" if self.sample else "greedy",
            "max_new_tokens": self.max_new_tokens,
            **(asdict(self.sample) if self.sample else {}),
        }


@dataclass(frozen=True)
class Answers:
    """Token ids that a model gave back for a batch."""

    tokens: list[list[int]]
    """One list per image, without the token that ends the turn."""
    unfinished: list[bool]
    """Whether max_new_tokens ended it."""
    close: list[bool]
    """Whether some word led by less than the margin asked for."""


def neutralise(model: Any, tokenizer: Any) -> GenerationConfig:
    """Replace the checkpoint's decoding defaults: no hidden temperature, penalty or length. Its end tokens stay."""
    ends = model.generation_config.eos_token_id
    ends = set(ends if isinstance(ends, list) else [] if ends is None else [ends])
    if tokenizer.eos_token_id is not None:
        ends.add(tokenizer.eos_token_id)
    padding = tokenizer.pad_token_id
    plain = GenerationConfig(
        do_sample=False,
        num_beams=1,
        eos_token_id=sorted(ends),
        pad_token_id=padding if padding is not None else min(ends),
    )
    model.generation_config = plain
    return plain


def generate(
    model: Any, batch: dict[str, torch.Tensor], decoding: Decoding, *, margin: float, keys: list[bytes]
) -> Answers:
    """Let a model answer a batch of equally long prompts.

    Parameters
    ----------
    model
        After `neutralise`.
    batch
        Inputs on the model's device, input_ids (B, L).
    margin
        See `MARGIN`.
    keys
        B names of the images: what sampling draws from besides its seed.
    """
    processors = LogitsProcessorList()
    if decoding.sample:
        processors.append(_OwnDraw(decoding.sample, keys))
    watch = _Watch()
    processors.append(watch)
    with torch.inference_mode():
        ids = model.generate(**batch, max_new_tokens=decoding.max_new_tokens, logits_processor=processors)
    answers = ids[:, batch["input_ids"].shape[1] :].cpu()
    leads = torch.stack(watch.leads, dim=1).cpu()  # (B, steps)
    ends = torch.tensor(model.generation_config.eos_token_id)
    tokens, unfinished, close = [], [], []
    for row, lead in zip(answers, leads, strict=True):
        stops = torch.isin(row, ends).nonzero()
        length = int(stops[0]) if len(stops) else len(row)
        tokens.append(row[:length].tolist())
        unfinished.append(not len(stops))
        close.append(bool((lead[: length + 1] < margin).any()))
    return Answers(tokens, unfinished, close)


class _Watch(LogitsProcessor):
    """Notes by how much the best word leads at each step."""

    def __init__(self) -> None:
        self.leads: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        best = scores.float().topk(2, dim=-1).values
        self.leads.append(best[:, 0] - best[:, 1])
        return scores


class _OwnDraw(LogitsProcessor):
    """Gumbel noise on the tempered scores: the largest is then a draw from their softmax. Each image has its own."""

    def __init__(self, sample: Sampling, keys: list[bytes]) -> None:
        self._temperature = sample.temperature
        seeds = [hashlib.sha256(sample.seed.to_bytes(8, "little", signed=True) + key).digest()[:8] for key in keys]
        self._streams = [np.random.default_rng(int.from_bytes(seed, "little")) for seed in seeds]

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        noise = np.stack([stream.gumbel(size=scores.shape[-1]) for stream in self._streams]).astype(np.float32)
        return scores.float() / self._temperature + torch.from_numpy(noise).to(scores.device)  # type: ignore[return-value]
