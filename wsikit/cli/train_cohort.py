"""`wsikit train` for cohorts of patients: survival and classes from tables and slides, next to baselines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from wsikit.training.cohort.cross_validation import FoldResult


def train_cohort(
    config: str,
    data: str | None,
    out: Path,
    *,
    resume: bool,
    strict: bool,
    dry_run: bool,
    device: str,
    threads: int | None,
) -> int:
    """Check the cohort of a configuration; then, unless `dry_run`, cross-validate its network and all baselines."""
    from wsikit.training.cohort.config import CohortTrainConfig
    from wsikit.training.cohort.learners import check_settings
    from wsikit.training.task import read_config

    settings = read_config(config, CohortTrainConfig, data=data)
    check_settings(settings)
    if dry_run:
        from wsikit.training.cohort.run import check_cohort

        check_cohort(settings, strict=strict, message=click.echo)
        click.echo("dry run: nothing was trained or written")
        return 0
    from threadpoolctl import threadpool_limits

    from wsikit.training.cohort.lines import summary_lines
    from wsikit.training.cohort.run import CohortCallbacks, run_cohort_training

    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    callbacks = CohortCallbacks(message=_say, fold=_show_fold)
    with threadpool_limits(threads):
        metrics = run_cohort_training(settings, out, resume=resume, strict=strict, device=device, callbacks=callbacks)
    for line in summary_lines(metrics):
        click.echo(line)
    places = ", ".join(
        name for name in ("metrics.json", "predictions.csv", "splits.json", "km.png") if (out / name).exists()
    )
    click.echo(f"{out}: {places}")
    return 0


def _show_fold(result: FoldResult, done: int, total: int) -> None:
    _say(f"{done}/{total} {result.learner}, seed {result.seed}, fold {result.fold + 1}: {result.seconds:.1f} s")


def _say(text: str) -> None:
    click.echo(text, err=True)
