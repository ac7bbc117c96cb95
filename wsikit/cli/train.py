"""`wsikit train`: train a model from a configuration."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from wsikit.training.afloc.config import AflocTrainConfig
    from wsikit.training.afloc.trainer import AflocEpoch
    from wsikit.training.config import TrainConfig
    from wsikit.training.heads.config import HeadTrainConfig
    from wsikit.training.module import EpochRecord


@click.command()
@click.argument("config", type=click.Path(dir_okay=False), metavar="CONFIG.yaml")
@click.option("--data", metavar="PATH", help="Images (folder or zip) or manifest, instead of those in CONFIG.")
@click.option("-o", "--out", required=True, type=click.Path(file_okay=False), help="New output folder.")
@click.option("--resume", is_flag=True, help="Resume an interrupted run; the result is the same.")
@click.option("--device", default="auto", show_default=True, type=click.Choice(["auto", "cpu", "cuda"]))
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="CPU threads; default: torch's choice.")
def command(config: str, data: str | None, out: str, resume: bool, device: str, threads: int | None) -> int:
    """Train a model with the settings of CONFIG.yaml: OUT/model, splits.json, metrics.json, figures. A section `head`
    asks for a classifier on features of an encoder (seconds on a CPU), `architecture: afloc` for an encoder of texts
    and patches that learns from captions without labels; without them, MMLNB is trained.

    The split is by patient; what has to be selected is selected on the validation part; the test part is evaluated
    once, at the end.
    """
    from wsikit.training.afloc.config import AFLOC, AflocTrainConfig
    from wsikit.training.heads.config import HeadTrainConfig, read_training_config
    from wsikit.training.task import read_config, read_settings

    # before torch, which takes seconds to import
    settings: AflocTrainConfig | TrainConfig | HeadTrainConfig
    if read_settings(config).get("architecture") == AFLOC:
        settings = read_config(config, AflocTrainConfig, data=data)
    else:
        settings = read_training_config(config, data=data)
    if isinstance(settings, AflocTrainConfig):
        return _train_afloc(settings, Path(out), resume, device, threads)
    if isinstance(settings, HeadTrainConfig):
        metrics = _train_head(settings, Path(out), resume, device, threads)
    else:
        metrics = _train_mmlnb(settings, Path(out), resume, device, threads)
    for way, record in metrics["test"].items():
        figures = record["patch"]
        auc, balanced = figures["auc"]["value"], figures["balanced_accuracy"]["value"]
        shown = "–" if auc is None else f"{auc:.3f}"
        click.echo(f"{way:40s} AUC {shown}  balanced accuracy {balanced:.3f}")
    click.echo(f"{out}/model: use it with  wsikit run SLIDE --model {out}/model -o …")
    return 0


def _train_mmlnb(settings: TrainConfig, out: Path, resume: bool, device: str, threads: int | None) -> dict[str, Any]:
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

    callbacks = RunCallbacks(message=_say, epoch=show_epoch, captioned=count)
    return run_training(settings, out, resume=resume, device=device, callbacks=callbacks)


def _train_head(settings: HeadTrainConfig, out: Path, resume: bool, device: str, threads: int | None) -> dict[str, Any]:
    from threadpoolctl import threadpool_limits

    from wsikit.training.heads.run import HeadCallbacks, run_head_training

    with threadpool_limits(threads):
        return run_head_training(
            settings,
            out,
            resume=resume,
            device=device,
            callbacks=HeadCallbacks(message=_say, encoded=encoded_in_tenths()),
        )


def _train_afloc(settings: AflocTrainConfig, out: Path, resume: bool, device: str, threads: int | None) -> int:
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

    callbacks = AflocCallbacks(message=_say, epoch=show_epoch)
    metrics = run_afloc_training(settings, out, resume=resume, device=device, callbacks=callbacks)
    for term, figures in metrics["test"]["terms"].items():
        click.echo(f"{term:40s} AUROC {figures['auroc']:.3f}")
    click.echo(f"{out}/model: use it with  wsikit localize STORE TEXT --encoder {out}/model")
    return 0


def encoded_in_tenths() -> Callable[[int, int], None]:
    """A function that reports every tenth of the images that an encoder has done."""
    before = 0

    def report(done: int, total: int) -> None:
        nonlocal before
        if before * 10 // total != done * 10 // total:
            click.echo(f"features: {done} of {total}", err=True)
        before = done

    return report


def _say(text: str) -> None:
    click.echo(text, err=True)
