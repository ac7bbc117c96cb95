"""`wsikit evaluate`: evaluate a trained model on labelled patches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from pathlib import Path

    from wsikit.models.mmlnb import MMLNB
    from wsikit.training.concepts.config import ConceptTrainConfig
    from wsikit.training.config import TrainConfig
    from wsikit.training.heads.config import HeadTrainConfig

VOTE_METHODS = ("mean", "hard", "log", "soft_clinical", "confidence", "gate", "topk", "quantile", "noisy_or")
"""Same as `wsikit.training.vote_validation.METHODS`, which would import torch for a help text."""


@click.command()
@click.argument("model", metavar="NAME|DIR")
@click.option(
    "--config",
    type=click.Path(dir_okay=False),
    metavar="CONFIG.yaml",
    help="Configuration of the data, as for wsikit train; default: config.yaml next to the model's folder.",
)
@click.option("--data", metavar="PATH", help="Images (folder or zip) or manifest, instead of those in CONFIG.")
@click.option(
    "--split", "split_file", type=click.Path(dir_okay=False), metavar="JSON", help="splits.json of a training run."
)
@click.option("--part", type=click.Choice(["train", "validation", "test"]), default="test", show_default=True)
@click.option("--fold", type=click.IntRange(min=0), default=0, show_default=True, help="Fold of the split.")
@click.option("--allow-seen", is_flag=True, help="Also evaluate on patients used in training; this is recorded.")
@click.option(
    "--rivals",
    is_flag=True,
    help="Also fit rivals (boosting on measured facts, colours, words) on the patches that MODEL was trained on: the "
    "data, config.yaml and splits.json of its run must be there.",
)
@click.option(
    "--parameters",
    type=click.Path(dir_okay=False),
    metavar="JSON",
    help="Voting parameters that --fit-vote wrote for MODEL: their errors and intervals are measured as well.",
)
@click.option(
    "--fit-vote",
    "vote_method",
    type=click.Choice(VOTE_METHODS),
    help="Instead of evaluating, fit this voting method on the validation part; writes OUT/vote.json.",
)
@click.option(
    "--prior",
    default="auto",
    show_default=True,
    metavar="PRIOR",
    help="Class frequencies to correct to: training, balanced, or CLASS=FREQUENCY,…; auto: training, where recorded.",
)
@click.option("-o", "--out", required=True, type=click.Path(file_okay=False), help="Output folder.")
@click.option("--device", default="auto", show_default=True, type=click.Choice(["auto", "cpu", "cuda"]))
@click.option("--json", "as_json", is_flag=True, help="Print the metrics as JSON.")
def command(
    model: str,
    config: str | None,
    data: str | None,
    split_file: str | None,
    part: str,
    fold: int,
    allow_seen: bool,
    rivals: bool,
    parameters: str | None,
    vote_method: str | None,
    prior: str,
    out: str,
    device: str,
    as_json: bool,
) -> int:
    """Evaluate a model at patch, slide and patient level: OUT/metrics.json and OUT/figures.

    Each branch, the fusion, the means of both branches and the control conditions, with 95 % intervals from draws of
    patients; the error of the shares by each voting method. To test on another data set than that of the training:
    --data OTHER.zip.

    With --fit-vote, fit the parameters of a vote on the validation slides of --split instead; wsikit vote
    --parameters OUT/vote.json uses them.
    """
    from pathlib import Path

    from wsikit.cli.cohort_models import evaluate_patients, is_cohort_model

    if is_cohort_model(model):
        return evaluate_patients(model, config, data, out, allow_seen, device, as_json)

    from wsikit.errors import RequestError
    from wsikit.models.registry import CONCEPTS, HEAD, MIL, MMLNB, describe_model, load_patch_model
    from wsikit.training.concepts.config import ConceptTrainConfig
    from wsikit.training.heads.config import HeadTrainConfig
    from wsikit.training.run_record import CONFIG_COPY
    from wsikit.voting.fitted_parameters import read_fitted

    architecture = describe_model(model).architecture
    if architecture == MIL:
        if vote_method is not None or rivals or parameters is not None or prior != "auto":
            raise RequestError(f"model {model}: --fit-vote, --parameters, --rivals and --prior are not for MIL models.")
        from wsikit.cli.train_mil import evaluate_mil

        of_slides = {"split_file": split_file, "part": part, "fold": fold, "allow_seen": allow_seen, "device": device}
        return evaluate_mil(model, config, data, Path(out), of_slides, as_json)
    if architecture in (HEAD, CONCEPTS) and config is None:
        config = str(Path(model).parent / CONFIG_COPY)
    if config is not None:
        # a wrong one is refused before torch is imported
        of_head = evaluation_config(config, data)
        if isinstance(of_head, HeadTrainConfig | ConceptTrainConfig):
            if vote_method is not None or rivals or parameters is not None:
                raise RequestError(f"model {model}: --fit-vote, --parameters and --rivals are for MMLNB only.")
            chosen = {"split_file": split_file, "part": part, "fold": fold, "allow_seen": allow_seen, "device": device}
            chosen["prior"] = prior
            if isinstance(of_head, ConceptTrainConfig):
                return _evaluate_concepts(model, of_head, Path(out), chosen, as_json)
            return _evaluate_head(model, of_head, Path(out), chosen, as_json)

    from wsikit.models.io import load_model
    from wsikit.training.run import RunCallbacks, run_evaluation

    if architecture == MMLNB:
        own = load_model(model)
        settings = _mmlnb_config(config or Path(own.folder or model).parent / CONFIG_COPY, data)
        if vote_method is not None:
            return _fit_vote(own, settings, out, split_file, fold, (vote_method, prior), device, as_json)
        loaded: Any = own
    else:
        if config is None or vote_method is not None:
            raise RequestError(f"model {model}: of another architecture; give --config, and no --fit-vote with it.")
        settings = _mmlnb_config(config, data)
        loaded = load_patch_model(model, device=device)  # type: ignore[arg-type]
    trained_on = None
    if rivals:
        from wsikit.training.evaluation_parts import rival_data

        if architecture != MMLNB or own.folder is None:
            raise RequestError(f"model {model}: --rivals is for the folder of an MMLNB.")
        trained_on = rival_data(own.folder)
    metrics = run_evaluation(
        loaded,
        settings,
        Path(out),
        split_file=None if split_file is None else Path(split_file),
        part=part,
        fold=fold,
        allow_seen=allow_seen,
        prior=prior,
        device=device,
        rivals=trained_on,
        vote=None if parameters is None else read_fitted(parameters),
        callbacks=RunCallbacks(message=lambda text: click.echo(text, err=True)),
    )
    return _show(metrics, as_json)


def _mmlnb_config(path: str | Path, data: str | None) -> TrainConfig:
    from wsikit.errors import RequestError
    from wsikit.training.config import TrainConfig

    settings = evaluation_config(path, data)
    if not isinstance(settings, TrainConfig):
        raise RequestError(f"{path}: the configuration of a head; this model is none. Give that of its training.")
    return settings


def evaluation_config(path: str | Path, data: str | None) -> TrainConfig | HeadTrainConfig | ConceptTrainConfig:
    """The configuration of a training or of an ablation, for an evaluation; `data` replaces its images."""
    from wsikit.training.heads.config import read_training_config
    from wsikit.training.task import read_settings

    if {"fusion", "text_training"} <= read_settings(path).keys():
        from wsikit.training.ablation import AblationConfig
        from wsikit.training.config import read_config

        return read_config(path, AblationConfig, data=data)
    return read_training_config(path, data=data)


def _show(metrics: dict[str, Any], as_json: bool) -> int:
    import json

    from wsikit.training.evaluation_lines import gain_lines, lines_of, share_lines

    if as_json:
        click.echo(json.dumps(metrics, ensure_ascii=False))
        return 0
    for line in (*lines_of(metrics["results"]), *gain_lines(metrics), *share_lines(metrics)):
        click.echo(line)
    return 0


def _evaluate_head(model: str, settings: HeadTrainConfig, out: Path, chosen: dict[str, Any], as_json: bool) -> int:
    from pathlib import Path

    from wsikit.cli.console import encoded_in_tenths
    from wsikit.models.registry import load_patch_model
    from wsikit.training.heads.run import HeadCallbacks, run_head_evaluation

    split_file = chosen.pop("split_file")
    metrics = run_head_evaluation(
        load_patch_model(model),
        settings,
        out,
        folder=Path(model) if Path(model).is_dir() else None,
        split_file=None if split_file is None else Path(split_file),
        **chosen,
        callbacks=HeadCallbacks(message=lambda text: click.echo(text, err=True), encoded=encoded_in_tenths()),
    )
    return _show(metrics, as_json)


def _evaluate_concepts(
    model: str, settings: ConceptTrainConfig, out: Path, chosen: dict[str, Any], as_json: bool
) -> int:
    from pathlib import Path

    from wsikit.cli.console import encoded_in_tenths
    from wsikit.errors import RequestError
    from wsikit.models.concept_head import ConceptHead
    from wsikit.models.registry import load_patch_model
    from wsikit.training.concepts.card import concept_lines
    from wsikit.training.concepts.run import ConceptCallbacks, run_concept_evaluation

    split_file = chosen.pop("split_file")
    loaded = load_patch_model(model)
    if not isinstance(loaded, ConceptHead):
        raise RequestError(f"model {model}: no concept head, the configuration is of one. Give that of its training.")
    metrics = run_concept_evaluation(
        loaded,
        settings,
        out,
        folder=Path(model) if Path(model).is_dir() else None,
        split_file=None if split_file is None else Path(split_file),
        **chosen,
        callbacks=ConceptCallbacks(message=lambda text: click.echo(text, err=True), encoded=encoded_in_tenths()),
    )
    _show(metrics, as_json)
    if not as_json:
        for line in concept_lines(metrics):
            click.echo(line)
    return 0


def _fit_vote(
    model: MMLNB,
    settings: TrainConfig,
    out: str,
    split_file: str | None,
    fold: int,
    method: tuple[str, str],
    device: str,
    as_json: bool,
) -> int:
    import json
    from pathlib import Path

    from wsikit.errors import RequestError
    from wsikit.models.predictor import Predictor
    from wsikit.training.vote_validation import FILE, run_vote_fit

    if split_file is None:
        raise RequestError("--fit-vote needs --split: the splits.json with the validation slides.")
    fitted = run_vote_fit(
        Predictor(model, device=device).model,  # type: ignore[arg-type]
        settings,
        Path(out),
        split_file=Path(split_file),
        fold=fold,
        method=method[0],
        prior=method[1],
        notify=lambda text: click.echo(text, err=True),
    )
    if as_json:
        click.echo(json.dumps(fitted.to_json(), ensure_ascii=False))
        return 0
    scores = ", ".join(f"{name} {value:.4f}" for name, value in fitted.scores.items())
    click.echo(f"{method[0]} on {fitted.slides} validation slides: Brier score {scores}")
    click.echo(f"min_margin {fitted.parameters.min_margin:.3f}: {fitted.abstains}")
    for line in fitted.lines():
        click.echo(line)
    click.echo(f"{Path(out) / FILE}")
    return 0
