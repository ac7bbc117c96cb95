"""Decoding, from prompts to token ids, such that a caption depends on its own patch only and not on the batch.

Rounding in a batch differs from that of a single patch. Where two words have such similar logits that rounding could
decide between them, the patch is captioned again on its own; by definition, that result is its caption.
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
"""Difference between the two largest logits below which a patch is captioned again on its own. Far above the rounding
errors in float32 (about 1e-5); in bfloat16 two to three rounding steps of a logit of about 20."""


@dataclass(frozen=True)
class Sampling:
    """Sample words instead of greedy decoding. The samples are determined by the seed and the patch's pixels.

    Examples
    --------
    >>> Sampling(seed=1)
    Sampling(seed=1, temperature=0.7)
    """

    seed: int
    temperature: float = 0.7

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise RequestError(
                f"temperature {self.temperature}: expected more than 0; for greedy decoding omit the sampling"
            )


@dataclass(frozen=True)
class Decoding:
    """Decoding parameters.

    Examples
    --------
    >>> Decoding().to_json()
    {'method': 'greedy', 'max_new_tokens': 128}
    """

    max_new_tokens: int = 128
    sample: Sampling | None = None

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise RequestError(f"max_new_tokens {self.max_new_tokens}: expected at least 1")

    def to_json(self) -> dict[str, Any]:
        """As part of a fingerprint."""
        return {
            "method": "sample" if self.sample else "greedy",
            "max_new_tokens": self.max_new_tokens,
            **(asdict(self.sample) if self.sample else {}),
        }


@dataclass(frozen=True)
class Answers:
    """Token ids that a model generated for a batch."""

    tokens: list[list[int]]
    """One list per image, without the end-of-turn token."""
    unfinished: list[bool]
    """Whether it was cut at max_new_tokens."""
    close: list[bool]
    """Whether the margin of some word was below the required one."""


def set_greedy(model: Any, tokenizer: Any) -> GenerationConfig:
    """Replace the checkpoint's decoding defaults (temperature, penalties, length) by greedy ones; keep end tokens."""
    ends = model.generation_config.eos_token_id
    ends = set(ends if isinstance(ends, list) else [] if ends is None else [ends])
    if tokenizer.eos_token_id is not None:
        ends.add(tokenizer.eos_token_id)
    padding = tokenizer.pad_token_id
    make_config: Any = GenerationConfig  # untyped in transformers
    plain: GenerationConfig = make_config(
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
    """Generate captions for a batch of equally long prompts.

    Parameters
    ----------
    model
        After `set_greedy`.
    batch
        Inputs on the model's device, input_ids (B, L).
    margin
        See `MARGIN`.
    keys
        B keys of the images, which determine the samples together with the seed.
    """
    processors = LogitsProcessorList()
    if decoding.sample:
        processors.append(_SeededSampling(decoding.sample, keys))
    recorder = _MarginRecorder()
    processors.append(recorder)
    with torch.inference_mode():
        ids = model.generate(**batch, max_new_tokens=decoding.max_new_tokens, logits_processor=processors)
    answers = ids[:, batch["input_ids"].shape[1] :].cpu()
    margins = torch.stack(recorder.margins, dim=1).cpu()  # (B, steps)
    ends = torch.tensor(model.generation_config.eos_token_id)
    tokens, unfinished, close = [], [], []
    for row, lead in zip(answers, margins, strict=True):
        stops = torch.isin(row, ends).nonzero()
        length = int(stops[0]) if len(stops) else len(row)
        tokens.append(row[:length].tolist())
        unfinished.append(not len(stops))
        close.append(bool((lead[: length + 1] < margin).any()))
    return Answers(tokens, unfinished, close)


class _MarginRecorder(LogitsProcessor):
    """Records the difference between the two largest logits at each step."""

    def __init__(self) -> None:
        self.margins: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        best = scores.float().topk(2, dim=-1).values
        self.margins.append(best[:, 0] - best[:, 1])
        return scores


class _SeededSampling(LogitsProcessor):
    """Gumbel noise on the logits over temperature: their argmax is then a sample from the softmax. Seeded per image."""

    def __init__(self, sample: Sampling, keys: list[bytes]) -> None:
        self._temperature = sample.temperature
        seeds = [hashlib.sha256(sample.seed.to_bytes(8, "little", signed=True) + key).digest()[:8] for key in keys]
        self._streams = [np.random.default_rng(int.from_bytes(seed, "little")) for seed in seeds]

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        noise = np.stack([stream.gumbel(size=scores.shape[-1]) for stream in self._streams]).astype(np.float32)
        return scores.float() / self._temperature + torch.from_numpy(noise).to(scores.device)  # type: ignore[return-value]
