"""`wsikit train`: train a model from a configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from wsikit.training.afloc.trainer import AflocEpoch
    from wsikit.training.module import EpochRecord


@click.command()
@click.argument("config", type=click.Path(dir_okay=False), metavar="CONFIG.yaml")
@click.option("--data", metavar="PATH", help="Images (folder or zip) or manifest, instead of those in CONFIG.")
@click.option("-o", "--out", required=True, type=click.Path(file_okay=False), help="New output folder.")
@click.option("--resume", is_flag=True, help="Resume an interrupted run; the result is the same.")
@click.option("--device", default="auto", show_default=True, type=click.Choice(["auto", "cpu", "cuda"]))
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="CPU threads; default: torch's choice.")
def command(config: str, data: str | None, out: str, resume: bool, device: str, threads: int | None) -> int:
    """Train MMLNB, or AFLoc, with the settings of CONFIG.yaml: OUT/model, splits.json, metrics.json, figures.

    With `architecture: afloc` in CONFIG.yaml, the model finds texts in slides, and is trained on captions without
    labels. The split is by patient; the epoch is selected on the validation part; the test part is evaluated once,
    at the end.
    """
    from pathlib import Path

    from wsikit.training.config import TrainConfig, architecture_of, read_config

    if architecture_of(config) == "afloc":
        return _train_afloc(config, data, out, resume, device, threads)
    settings = read_config(config, TrainConfig, data=data)  # before torch, which takes seconds to import

    import torch

    from wsikit.training.run import RunCallbacks, run_training

    if threads is not None:
        torch.set_num_threads(threads)
    captioned = 0

    def count(done: int, total: int) -> None:
        nonlocal captioned
        before, captioned = captioned, captioned + done
        if before * 10 // total != captioned * 10 // total:
            click.echo(f"captions: {captioned} of {total}", err=True)

    def show_epoch(record: EpochRecord) -> None:
        found = record.validation or {}
        figures = ", ".join(f"{name} {value:.3f}" for name, value in found.items())
        click.echo(
            f"epoch {record.epoch + 1}/{settings.training.epochs} {record.stage}: loss {record.loss:.3f}, "
            f"gate {record.gate:.2f}, {record.seconds:.0f} s; validation {figures}",
            err=True,
        )

    callbacks = RunCallbacks(message=lambda text: click.echo(text, err=True), epoch=show_epoch, captioned=count)
    metrics = run_training(settings, Path(out), resume=resume, device=device, callbacks=callbacks)
    for way, record in metrics["test"].items():
        figures = record["patch"]
        auc, balanced = figures["auc"]["value"], figures["balanced_accuracy"]["value"]
        shown = "–" if auc is None else f"{auc:.3f}"
        click.echo(f"{way:40s} AUC {shown}  balanced accuracy {balanced:.3f}")
    click.echo(f"{out}/model: use it with  wsikit run SLIDE --model {out}/model -o …")
    return 0


def _train_afloc(config: str, data: str | None, out: str, resume: bool, device: str, threads: int | None) -> int:
    from pathlib import Path

    from wsikit.training.afloc.config import AflocTrainConfig
    from wsikit.training.config import read_config

    settings = read_config(config, AflocTrainConfig, data=data)  # before torch, which takes seconds to import

    import torch

    from wsikit.training.afloc.run import AflocCallbacks, run_afloc_training

    if threads is not None:
        torch.set_num_threads(threads)

    def show_epoch(record: AflocEpoch) -> None:
        levels = ", ".join(f"{name} {value:.3f}" for name, value in record.levels.items())
        click.echo(
            f"epoch {record.epoch + 1}/{settings.training.epochs}: loss {record.loss:.3f} ({levels}), "
            f"{record.seconds:.0f} s; validation {record.validation:.3f}",
            err=True,
        )

    callbacks = AflocCallbacks(message=lambda text: click.echo(text, err=True), epoch=show_epoch)
    metrics = run_afloc_training(settings, Path(out), resume=resume, device=device, callbacks=callbacks)
    for term, figures in metrics["test"]["terms"].items():
        click.echo(f"{term:40s} AUROC {figures['auroc']:.3f}")
    click.echo(f"{out}/model: use it with  wsikit localize STORE TEXT --encoder {out}/model")
    return 0
