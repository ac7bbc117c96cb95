"""`wsikit ablate`: ablation of the text branch by cross-validation."""

from __future__ import annotations

import click


@click.command()
@click.argument("config", type=click.Path(dir_okay=False), metavar="CONFIG.yaml")
@click.option("--data", metavar="PATH", help="Images (folder or zip) or manifest, instead of those in CONFIG.")
@click.option("-o", "--out", required=True, type=click.Path(file_okay=False), help="Output folder.")
@click.option("--workers", default=1, show_default=True, type=click.IntRange(min=1), help="Folds trained in parallel.")
def command(config: str, data: str | None, out: str, workers: int) -> int:
    """Cross-validate image, text, concatenation and PRMF, with measured, no and shuffled captions.

    Both branches are trained once per fold and seed and shared by all arms. OUT gets results.md, results.json,
    results.png, splits.json, predictions/ and the first seed's models/. Run again, it computes only what is missing.
    """
    from pathlib import Path

    _check(config, data)
    from wsikit.training.ablation import AblationConfig, run_ablation
    from wsikit.training.ablation_report import report_ablation
    from wsikit.training.config import read_config

    settings = read_config(config, AblationConfig, data=data)
    run_ablation(settings, Path(out), workers=workers, notify=lambda text: click.echo(text, err=True))
    click.echo(report_ablation(settings, Path(out)))
    click.echo(
        f"{out}/results.md, results.json, results.png; models of seed {settings.folds.training_seeds[0]}: models/"
    )
    return 0


def _check(config: str, data: str | None) -> None:
    """RequestError for what is wrong in the settings that `wsikit train` has too: torch is not loaded for these."""
    from pydantic import ConfigDict

    from wsikit.training.config import TrainConfig, read_config

    class Shared(TrainConfig):
        model_config = ConfigDict(extra="ignore")

    read_config(config, Shared, data=data)
