"""`wsikit finetune-captioner`: a table of images with descriptions to a LoRA adapter, or to out-of-fold captions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

    from wsikit.training.captioner.settings import FinetuneSettings


@click.command()
@click.argument("table", type=click.Path(), metavar="TABLE.csv")
@click.option("--images", required=True, type=click.Path(), metavar="DIR|ZIP", help="Where the table's images lie.")
@click.option("--model", required=True, metavar="NAME|DIR|ID", help="Base model, on this disk already.")
@click.option("-o", "--out", required=True, type=click.Path(), metavar="OUT", help="New folder for the results.")
@click.option("--config", type=click.Path(), metavar="YAML", help="Settings; what is given here as an option wins.")
@click.option(
    "--folds", type=int, metavar="K", help="Train K adapters; each patient is captioned by one that never saw it."
)
@click.option("--prompt", help="What is asked about each image.")
@click.option(
    "--image-px", type=int, metavar="PX", help="Side that images are brought to; default: the base's, or 224."
)
@click.option("--mpp", type=float, metavar="µm/px", help="Pixel size of the images, kept in the record.")
@click.option("--epochs", type=int, help="Default: 5.")
@click.option("--lr", type=float, help="Learning rate. Default: 1e-4.")
@click.option("--rank", type=int, help="Of the adapter. Default: 64.")
@click.option("--alpha", type=float, help="The adapter counts alpha/rank. Default: 16.")
@click.option("--batch", type=int, help="Images at once. Default: 4.")
@click.option("--accumulate", type=int, help="Batches per step. Default: 4.")
@click.option("--seed", type=int, help="Default: 2024.")
@click.option("--vision-mlps", is_flag=True, default=None, help="Adapt the MLPs of the vision part too.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, mps.")
@click.option("--dtype", default="auto", show_default=True, help="auto, float32, bfloat16, float16.")
def command(
    table: str,
    images: str,
    model: str,
    out: str,
    config: str | None,
    folds: int | None,
    device: str,
    dtype: str,
    **options: Any,
) -> int:
    """Teach a vision-language model the descriptions of TABLE.csv (file_name, description[, class][, patient]).

    Whole patients are held out to validate on. The same command goes on where it was stopped.
    """
    settings = _settings(config, options)
    from rich.console import Console

    from wsikit.training.captioner.finetune import finetune_captioner
    from wsikit.training.captioner.folds import out_of_fold_captions
    from wsikit.training.datasets import read_table

    console = Console()
    read = read_table(table, images, needs_class=False)
    if folds is not None:
        path = out_of_fold_captions(
            read,
            folds,
            model=model,
            out=out,
            settings=settings,
            device=device,
            dtype=dtype,
            tell=lambda fold: _teller(console, f"fold {fold + 1}/{folds}, "),
        )
        console.print(f"Out-of-fold captions: {path}", soft_wrap=True)
        return 0
    record = finetune_captioner(
        read, model=model, out=out, settings=settings, device=device, dtype=dtype, tell=_teller(console, "")
    )
    figures, data = record["figures"], record["data"]
    console.print(
        f"{out}: epoch {figures['epoch']} kept, fact-F1 {figures['fact_f1']:.3f} on {data['validation_rows']} images "
        f"of unseen patients; label words taken out of {data['descriptions_scrubbed']} descriptions.",
        soft_wrap=True,
    )
    return 0


def _settings(config: str | None, options: dict[str, Any]) -> FinetuneSettings:
    """The YAML file with the given options over it."""
    from pathlib import Path

    import yaml
    from pydantic import ValidationError

    from wsikit.errors import RequestError
    from wsikit.training.captioner.settings import FinetuneSettings

    values: dict[str, Any] = {}
    if config is not None:
        try:
            values = yaml.safe_load(Path(config).read_text(encoding="utf-8")) or {}
        except (OSError, yaml.YAMLError) as error:
            raise RequestError(f"{config}: not readable as YAML ({error})") from error
    try:
        return FinetuneSettings.model_validate(values | {k: v for k, v in options.items() if v is not None})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "settings"
        raise RequestError(f"{config or 'options'}: {where}: {first['msg']}") from error


def _teller(console: Console, prefix: str) -> Callable[[float, dict[str, float]], None]:
    def tell(share: float, figures: dict[str, float]) -> None:
        console.print(
            f"{prefix}epoch {figures['epoch']} ({share:.0%}): validation loss {figures['loss']:.4f}, "
            f"fact-F1 {figures['fact_f1']:.3f}, graded {figures['fact_f1_graded']:.3f}"
        )

    return tell
