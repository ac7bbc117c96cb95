"""`wsikit finetune-captioner`: a LoRA adapter, or out-of-fold captions, from a table of images with descriptions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

    from wsikit.training.captioner.settings import FinetuneSettings


@click.command()
@click.argument("table", type=click.Path(), metavar="TABLE.csv")
@click.option(
    "--images", required=True, type=click.Path(), metavar="DIR|ZIP", help="Folder or zip with the table's images."
)
@click.option("--model", required=True, metavar="NAME|DIR|ID", help="Base model, local or in the local cache.")
@click.option("-o", "--out", required=True, type=click.Path(), metavar="OUT", help="New folder for the results.")
@click.option("--config", type=click.Path(), metavar="YAML", help="Settings; options override them.")
@click.option(
    "--folds", type=int, metavar="K", help="Train K adapters; each patient is captioned by one not trained on it."
)
@click.option("--prompt", help="Prompt for each image.")
@click.option(
    "--image-px", type=int, metavar="PX", help="Side to which images are resized; default: the base's, or 224."
)
@click.option("--mpp", type=float, metavar="µm/px", help="Pixel size of the images, kept in the record.")
@click.option("--epochs", type=int, help="Default: 5.")
@click.option("--lr", type=float, help="Learning rate. Default: 1e-4.")
@click.option("--rank", type=int, help="Rank of the LoRA adapter. Default: 64.")
@click.option("--alpha", type=float, help="LoRA alpha (scaling = alpha/rank). Default: 16.")
@click.option("--batch", type=int, help="Batch size. Default: 4.")
@click.option("--accumulate", type=int, help="Gradient-accumulation steps. Default: 4.")
@click.option("--seed", type=int, help="Random seed. Default: 2024.")
@click.option("--vision-mlps", is_flag=True, default=None, help="Also adapt the MLPs of the vision part.")
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
    """Fine-tune a vision-language model on the descriptions of TABLE.csv (file_name, description[, class][, patient]).

    Whole patients are held out for validation. The same command resumes after an interruption.
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
            on_epoch=lambda fold: _on_epoch(console, f"fold {fold + 1}/{folds}, "),
        )
        console.print(f"Out-of-fold captions: {path}", soft_wrap=True)
        return 0
    record = finetune_captioner(
        read, model=model, out=out, settings=settings, device=device, dtype=dtype, on_epoch=_on_epoch(console, "")
    )
    figures, data = record["figures"], record["data"]
    console.print(
        f"{out}: epoch {figures['epoch']} kept, fact-F1 {figures['fact_f1']:.3f} on {data['validation_rows']} images "
        f"of unseen patients; label words removed from {data['descriptions_scrubbed']} descriptions.",
        soft_wrap=True,
    )
    return 0


def _settings(config: str | None, options: dict[str, Any]) -> FinetuneSettings:
    """The settings of the YAML file, overridden by the given options."""
    from pathlib import Path

    import yaml
    from pydantic import ValidationError

    from wsikit.errors import RequestError
    from wsikit.setting_faults import faults_in_words
    from wsikit.training.captioner.settings import FinetuneSettings

    values: dict[str, Any] = {}
    if config is not None:
        try:
            values = yaml.safe_load(Path(config).read_text(encoding="utf-8")) or {}
        except (OSError, yaml.YAMLError) as error:
            raise RequestError(f"{config}: not readable as YAML ({' '.join(str(error).split())})") from error
    try:
        return FinetuneSettings.model_validate(values | {k: v for k, v in options.items() if v is not None})
    except ValidationError as error:
        raise RequestError(f"{config or 'options'}: {faults_in_words(error, FinetuneSettings)}.") from error


def _on_epoch(console: Console, prefix: str) -> Callable[[float, dict[str, float]], None]:
    def show(share: float, figures: dict[str, float]) -> None:
        console.print(
            f"{prefix}epoch {figures['epoch']} ({share:.0%}): validation loss {figures['loss']:.4f}, "
            f"fact-F1 {figures['fact_f1']:.3f}, graded {figures['fact_f1_graded']:.3f}"
        )

    return show
