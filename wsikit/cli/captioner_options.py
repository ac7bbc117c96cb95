"""Options of the captioner, for the verbs that describe patches. Light: nothing heavy until an option is used."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from wsikit.captions import CaptionerOptions
    from wsikit.inference.budget import Budget

_NAMES = ("adapter", "prompt", "max_new_tokens", "temperature", "seed", "dtype", "quantize", "batch")
_SERVER_NAMES = ("concurrency", "timeout_s", "retries", "api_key_env")


@dataclass(frozen=True)
class CaptionRequest:
    """What was asked for on the command line."""

    captioner: str | None
    """None: by default."""
    options: CaptionerOptions
    budget: Budget | None


_OPTIONS = (
    click.option(
        "--captioner",
        metavar="NAME|DIR|ID|URL",
        help="morphometry (measures; the default), morphometry-in-slide, a packaged captioner, a vision-language model "
        "on this disk, or an OpenAI-compatible server: http://host:8000/v1 or …/v1#model. A run takes the one that its "
        "model was trained with, if that comes with the package.",
    ),
    click.option("--adapter", type=click.Path(), metavar="DIR", help="LoRA adapter of the model."),
    click.option("--prompt", metavar="TEXT|FILE", help="What the model is asked; default: as it was trained."),
    click.option(
        "--caption-budget",
        type=click.IntRange(0),
        metavar="N",
        help="Describe at most N representative patches per slide; others like them share their captions.",
    ),
    click.option(
        "--caption-similarity",
        "--similarity",
        "similarity",
        type=click.FloatRange(0, 1),
        metavar="S",
        help="How like a patch must be to share a caption: 1 equal, 0 as unlike as any two patches of the slide.",
    ),
    click.option("--max-new-tokens", type=click.IntRange(1), metavar="N", help="Longest caption, tokens."),
    click.option("--temperature", type=float, metavar="T", help="Draw words at random; default: the likeliest word."),
    click.option("--seed", type=int, metavar="N", help="Of random words; recorded with the captions."),
    click.option("--dtype", metavar="TYPE", help="Of the model: auto, float32, bfloat16, float16."),
    click.option("--quantize", type=click.Choice(["4bit"]), help="Load the model in 4 bits (CUDA, bitsandbytes)."),
    click.option("--batch", type=click.IntRange(1), metavar="N", help="Patches per call of the model."),
    click.option("--concurrency", type=click.IntRange(1), metavar="N", help="Requests to the server at once [8]."),
    click.option("--timeout", "timeout_s", type=float, metavar="s", help="Seconds for one answer of the server [120]."),
    click.option("--retries", type=click.IntRange(0), metavar="N", help="How often a request is tried again [4]."),
    click.option(
        "--api-key-env", metavar="VARIABLE", help="Environment variable with the server's key; default: no key is sent."
    ),
)


def captioner_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options above; the command gets them as one `request: CaptionRequest`."""

    @functools.wraps(function)
    def command(
        *arguments: Any, captioner: str | None, caption_budget: int | None, similarity: float | None, **others: Any
    ) -> Any:
        from wsikit.captions import CaptionerOptions

        given = {name: others.pop(name) for name in (*_NAMES, *_SERVER_NAMES)}
        given["prompt"] = _prompt(given["prompt"])
        budget = _budget(caption_budget, similarity)
        return function(*arguments, request=CaptionRequest(captioner, CaptionerOptions(**given), budget), **others)

    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def _budget(captions: int | None, similarity: float | None) -> Budget | None:
    from wsikit.errors import RequestError

    if captions is None:
        if similarity is not None:
            raise RequestError("--caption-similarity says who shares a caption: give --caption-budget N with it")
        return None
    from wsikit.inference.budget import SIMILARITY, Budget

    return Budget(captions, SIMILARITY if similarity is None else similarity)


def _prompt(text: str | None) -> str | None:
    """The text itself, or that of the file so named."""
    from pathlib import Path

    from wsikit.errors import RequestError

    if text is None:
        return None
    try:
        path = Path(text)
        found = path.read_text(encoding="utf-8") if path.is_file() else text
    except (OSError, UnicodeDecodeError) as error:
        if "\n" in text or len(text) > 255:  # too long for a name: it is the prompt
            return text
        raise RequestError(f"--prompt {text}: cannot be read as text ({error})") from error
    if not found.strip():
        raise RequestError("--prompt: it is empty")
    return found.strip()
