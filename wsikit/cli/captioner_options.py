"""Options of the captioner, for the verbs that describe patches. Heavy packages are imported only when used."""

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
_ASKING_NAMES = ("caption_field", "caption_mpp", "images_per_call")
_SERVER_NAMES = ("concurrency", "timeout_s", "retries", "api_key_env")


@dataclass(frozen=True)
class CaptionRequest:
    """The captioner options of the command line."""

    captioner: str | None
    """None: the default captioner."""
    options: CaptionerOptions
    budget: Budget | None


_OPTIONS = (
    click.option(
        "--captioner",
        metavar="NAME|DIR|ID|URL",
        help="morphometry (measured captions), morphometry-in-slide, a packaged captioner, a vision-language model on "
        "this disk, or an OpenAI-compatible server: http://host:8000/v1 or …/v1#model. Default: morphometry; for "
        "wsikit run the captioner of the model's training captions, if it is part of the package.",
    ),
    click.option("--adapter", type=click.Path(), metavar="DIR", help="Folder of a LoRA adapter for the model."),
    click.option("--prompt", metavar="TEXT|FILE", help="Prompt of the model; default: the prompt of its training."),
    click.option(
        "--caption-budget",
        type=click.IntRange(0),
        metavar="N",
        help="Describe at most N representative patches per slide; similar patches share their captions.",
    ),
    click.option(
        "--caption-similarity",
        "--similarity",
        "similarity",
        type=click.FloatRange(0, 1),
        metavar="S",
        help="Minimum feature similarity (0–1) for a patch to share a caption; 1: equal features.",
    ),
    click.option(
        "--caption-field",
        type=click.IntRange(1),
        metavar="PX",
        help="Generative captioners: describe square fields of this side, each with a block of patches; every patch "
        "takes the caption of its field, and its position in it.",
    ),
    click.option("--caption-mpp", type=float, metavar="µm/px", help="Pixel size of a field; default: 2."),
    click.option(
        "--images-per-call",
        type=click.IntRange(1),
        metavar="K",
        help="Generative captioners: describe K images in one request or prompt; default: 1.",
    ),
    click.option(
        "--max-new-tokens", type=click.IntRange(1), metavar="N", help="Maximum length of a caption, in tokens."
    ),
    click.option("--temperature", type=float, metavar="T", help="Sampling temperature; default: greedy decoding."),
    click.option("--seed", type=int, metavar="N", help="Seed of the sampling; recorded with the captions."),
    click.option("--dtype", metavar="TYPE", help="Data type of the model: auto, float32, bfloat16, float16."),
    click.option(
        "--quantize",
        type=click.Choice(["4bit"]),
        help="Load the model with 4-bit quantization (needs CUDA and bitsandbytes).",
    ),
    click.option("--batch", type=click.IntRange(1), metavar="N", help="Batch size: patches per call of the model."),
    click.option(
        "--concurrency",
        type=click.IntRange(1),
        metavar="N",
        help="Number of concurrent requests to the server; default: 8.",
    ),
    click.option(
        "--timeout",
        "timeout_s",
        type=float,
        metavar="s",
        help="Time limit of one request to the server, in seconds; default: 120.",
    ),
    click.option(
        "--retries", type=click.IntRange(0), metavar="N", help="Number of retries of a failed request; default: 4."
    ),
    click.option(
        "--api-key-env",
        metavar="VARIABLE",
        help="Environment variable with the API key of the server; default: no key is sent.",
    ),
)


def captioner_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options above; the command receives them as one `request: CaptionRequest`."""

    @functools.wraps(function)
    def command(
        *arguments: Any, captioner: str | None, caption_budget: int | None, similarity: float | None, **others: Any
    ) -> Any:
        from wsikit.captions import CaptionerOptions

        given = {name: others.pop(name) for name in (*_NAMES, *_ASKING_NAMES, *_SERVER_NAMES)}
        given["prompt"] = _prompt(given["prompt"])
        budget = _budget(caption_budget, similarity)
        if budget is not None and given["caption_field"] is not None:
            from wsikit.inference.caption_fields import check_budget

            check_budget(budget, given["caption_field"])
        return function(*arguments, request=CaptionRequest(captioner, CaptionerOptions(**given), budget), **others)

    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def _budget(captions: int | None, similarity: float | None) -> Budget | None:
    from wsikit.errors import RequestError

    if captions is None:
        if similarity is not None:
            raise RequestError("--caption-similarity is used only with a caption budget; add --caption-budget N")
        return None
    from wsikit.inference.budget import SIMILARITY, Budget

    return Budget(captions, SIMILARITY if similarity is None else similarity)


def _prompt(text: str | None) -> str | None:
    """The text itself, or the content of the file with this name."""
    from pathlib import Path

    from wsikit.errors import RequestError

    if text is None:
        return None
    try:
        path = Path(text)
        found = path.read_text(encoding="utf-8") if path.is_file() else text
    except (OSError, UnicodeDecodeError) as error:
        if "\n" in text or len(text) > 255:  # too long for a file name: it is the prompt
            return text
        raise RequestError(f"--prompt {text}: cannot be read as text ({error})") from error
    if not found.strip():
        raise RequestError("--prompt: it is empty")
    return found.strip()
