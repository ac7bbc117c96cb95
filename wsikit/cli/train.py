"""`wsikit train`: train a model from a configuration."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from wsikit.training.afloc.trainer import AflocEpoch
    from wsikit.training.concepts.config import ConceptTrainConfig
    from wsikit.training.config import TrainConfig
    from wsikit.training.heads.config import HeadTrainConfig
    from wsikit.training.module import EpochRecord

COHORT_ARCHITECTURES = ("umeml", "baselines")
"""Values of `architecture` whose data are cohorts of patients; `wsikit.training.cohort.learners` makes them."""


@click.command()
@click.argument("config", type=click.Path(dir_okay=False), metavar="CONFIG.yaml")
@click.option("--data", metavar="PATH", help="Images (folder or zip) or manifest, instead of those in CONFIG.")
@click.option(
    "-o",
    "--out",
    type=click.Path(file_okay=False),
    help="New output folder; default: the name of CONFIG, in the working directory.",
)
@click.option("--resume", is_flag=True, help="Resume an interrupted run; the result is the same.")
@click.option("--device", default="auto", show_default=True, type=click.Choice(["auto", "cpu", "cuda"]))
@click.option(
    "--test-data",
    metavar="PATH",
    help="Afterwards, test on this data set of other patients as well (OUT/test_data), with the rivals.",
)
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="CPU threads; default: torch's choice.")
@click.option("--dry-run", is_flag=True, help="Cohorts: check table, settings and folds, then stop.")
@click.option("--strict", is_flag=True, help="Cohorts: refuse a table with warnings, such as columns that may leak.")
def command(
    config: str,
    data: str | None,
    out: str | None,
    resume: bool,
    device: str,
    test_data: str | None,
    threads: int | None,
    dry_run: bool,
    strict: bool,
) -> int:
    """Train a model with the settings of CONFIG.yaml: OUT/model, splits.json, metrics.json, figures. A section `head`
    asks for a classifier on features of an encoder (seconds on a CPU), `architecture: afloc` for an encoder of texts
    and patches that learns from captions without labels, `architecture: mil` for a model that learns from labels of
    slides, `architecture: concepts` for a model that predicts through concepts, `architecture: umeml` for survival or
    classes of patients from a table and slides (docs/survival.md); without them, MMLNB is trained.

    The split is by patient; what has to be selected is selected on the validation part; the test part is evaluated
    once, at the end. With --test-data the model is then tested on another data set, as by  wsikit evaluate OUT/model
    --data PATH --rivals -o OUT/test_data.
    """
    from wsikit.errors import RequestError
    from wsikit.training.concepts.config import ConceptTrainConfig
    from wsikit.training.evaluation_lines import lines_of
    from wsikit.training.heads.config import HeadTrainConfig, read_training_config
    from wsikit.training.task import read_settings

    # before torch, which takes seconds to import
    folder = Path(out or Path(config).stem)
    architecture = read_settings(config).get("architecture")
    if test_data is not None and architecture in (*OWN_TRAINING, *COHORT_ARCHITECTURES):
        raise RequestError(f"--test-data is for MMLNB and heads on features, not for {architecture}.")
    if architecture in COHORT_ARCHITECTURES:
        from wsikit.cli.train_cohort import train_cohort

        return train_cohort(
            config, data, folder, resume=resume, strict=strict, dry_run=dry_run, device=device, threads=threads
        )
    if dry_run or strict:
        raise RequestError("--dry-run and --strict are for cohorts of patients, such as architecture: umeml.")
    if architecture in OWN_TRAINING:
        return OWN_TRAINING[str(architecture)](config, data, folder, resume, device, threads)
    settings = read_training_config(config, data=data)
    if test_data is not None:
        check_test_data(config, settings, test_data)
    if isinstance(settings, HeadTrainConfig):
        metrics = _train_head(settings, folder, resume, device, threads)
    elif isinstance(settings, ConceptTrainConfig):
        metrics = _train_concepts(settings, folder, resume, device, threads)
    else:
        metrics = _train_mmlnb(settings, folder, resume, device, threads)
    for line in lines_of(metrics["test"]):
        click.echo(line)
    if isinstance(settings, ConceptTrainConfig):
        from wsikit.training.concepts.card import concept_lines

        for line in concept_lines(metrics):
            click.echo(line)
    if test_data is not None:
        click.echo(f"on {test_data}:")
        _test_elsewhere(
            config, folder, test_data, device, of_head=isinstance(settings, HeadTrainConfig | ConceptTrainConfig)
        )
    click.echo(f"{folder}/model: use it with  wsikit run SLIDE --model {folder}/model -o …")
    return 0


def check_test_data(config: str, settings: TrainConfig | HeadTrainConfig | ConceptTrainConfig, test_data: str) -> None:
    """Refuse a test set that cannot be used, before the training rather than after it.

    Raises
    ------
    RequestError
        If it is missing, has other classes, or shares patients with the data of the training.
    """
    from wsikit.errors import RequestError
    from wsikit.training.data import groups_of
    from wsikit.training.datasets.configured import configured_table
    from wsikit.training.heads.config import read_training_config

    if not Path(test_data).exists():
        raise RequestError(f"--test-data {test_data}: no such file or folder.")
    own, other = (configured_table(one)[0].table for one in (settings, read_training_config(config, data=test_data)))
    known, asked = (set(groups_of(table, settings.data.group).tolist()) for table in (own, other))
    if shared := sorted(known & asked):
        raise RequestError(
            f"--test-data {test_data}: {len(shared)} {settings.data.group}(s) are also in the training data, such as "
            f"{shared[0]}. Give data of others. If only the names are the same, train without --test-data and then run "
            f"wsikit evaluate OUT/model --data {test_data} --allow-seen."
        )


def _test_elsewhere(config: str, out: Path, test_data: str, device: str, *, of_head: bool) -> None:
    """Evaluate the new model on another data set, as `wsikit evaluate` does."""
    from wsikit.cli.evaluate import command as evaluate

    arguments = [str(out / "model"), "--config", config, "--data", test_data, "-o", str(out / "test_data")]
    arguments += ["--device", device, *([] if of_head else ["--rivals"])]
    evaluate.main(arguments, standalone_mode=False)


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
        click.echo(epoch_line(record, settings.training.epochs), err=True)

    callbacks = RunCallbacks(message=_say, epoch=show_epoch, captioned=count)
    return run_training(settings, out, resume=resume, device=device, callbacks=callbacks)


def epoch_line(record: EpochRecord, epochs: int) -> str:
    """One line on an epoch; without validation metrics where a branch is trained without selecting an epoch."""
    line = f"epoch {record.epoch + 1}/{epochs} {record.stage}: loss {record.loss:.3f}, "
    line += f"gate {record.gate:.2f}, {record.seconds:.0f} s"
    if not record.validation:
        return line
    return f"{line}; validation " + ", ".join(f"{name} {value:.3f}" for name, value in record.validation.items())


def _train_head(settings: HeadTrainConfig, out: Path, resume: bool, device: str, threads: int | None) -> dict[str, Any]:
    from threadpoolctl import threadpool_limits

    from wsikit.cli.console import encoded_in_tenths
    from wsikit.training.heads.run import HeadCallbacks, run_head_training

    with threadpool_limits(threads):
        return run_head_training(
            settings,
            out,
            resume=resume,
            device=device,
            callbacks=HeadCallbacks(message=_say, encoded=encoded_in_tenths()),
        )


def _train_concepts(
    settings: ConceptTrainConfig, out: Path, resume: bool, device: str, threads: int | None
) -> dict[str, Any]:
    from wsikit.cli.console import encoded_in_tenths
    from wsikit.training.concepts.run import ConceptCallbacks, run_concept_training

    if threads is not None and settings.concepts.mode == "attend":
        import torch

        torch.set_num_threads(threads)

    def show_epoch(epoch: int, loss: float, accuracy: float) -> None:
        click.echo(f"epoch {epoch + 1}: loss {loss:.3f}; validation balanced accuracy {accuracy:.3f}", err=True)

    callbacks = ConceptCallbacks(message=_say, encoded=encoded_in_tenths(), epoch=show_epoch)
    return run_concept_training(settings, out, resume=resume, device=device, threads=threads or 1, callbacks=callbacks)


def _train_afloc(config: str, data: str | None, out: Path, resume: bool, device: str, threads: int | None) -> int:
    from wsikit.training.afloc.config import AflocTrainConfig
    from wsikit.training.task import read_config

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

    callbacks = AflocCallbacks(message=_say, epoch=show_epoch)
    metrics = run_afloc_training(settings, out, resume=resume, device=device, callbacks=callbacks)
    for term, figures in metrics["test"]["terms"].items():
        click.echo(f"{term:40s} AUROC {figures['auroc']:.3f}")
    click.echo(f"{out}/model: use it with  wsikit localize STORE TEXT --encoder {out}/model")
    return 0


def _train_mil(config: str, data: str | None, out: Path, resume: bool, device: str, threads: int | None) -> int:
    from wsikit.cli.train_mil import train_mil

    return train_mil(config, data, out, resume, device, threads, say=_say)


def _say(text: str) -> None:
    click.echo(text, err=True)


OWN_TRAINING: dict[str, Callable[[str, str | None, Path, bool, str, int | None], int]] = {
    "afloc": _train_afloc,
    "mil": _train_mil,
}
"""`architecture` in CONFIG to its training: configuration, data, out, resume, device, threads."""
