"""`wsikit vote`: aggregate the patch predictions of each store to one subtype."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from wsikit.cli.options import grid_option, stores_argument

if TYPE_CHECKING:
    from wsikit.voting import ThresholdRule, VoteParameters

METHODS = (
    "mean",
    "hard",
    "log",
    "soft_clinical",
    "confidence",
    "gate",
    "topk",
    "quantile",
    "threshold",
    "noisy_or",
    "attention",
)
"""Equal to `wsikit.voting.METHODS`, which would import NumPy to print a help text."""

WEIGHTS = ("tissue", "readable", "quality", "roi", "overlap", "key_tissue")
DEFAULT_WEIGHTS = "tissue,readable,quality,roi,overlap"


@click.command()
@stores_argument
@click.option(
    "--method",
    default="mean",
    type=click.Choice(METHODS),
    help="How patch predictions are aggregated; docs/voting.md has the formulas. Default: as the model is made for, or "
    "mean.",
)
@click.option(
    "--min-patches",
    default=20.0,
    show_default=True,
    metavar="N",
    help="Abstain with fewer effective patches.",
)
@click.option(
    "--min-margin",
    default=0.1,
    show_default=True,
    metavar="P",
    help="Abstain if the top two classes differ by less.",
)
@click.option(
    "--max-ood",
    default=0.5,
    show_default=True,
    metavar="FRACTION",
    help="Abstain if a larger fraction of the vote is out-of-distribution.",
)
@click.option(
    "--smooth",
    default="none",
    show_default=True,
    type=click.Choice(["none", "median", "mrf"]),
    help="Smooth the predictions of neighbouring patches first.",
)
@click.option("--coupling", default=0.5, show_default=True, metavar="LOGODDS", help="mrf: coupling to one neighbour.")
@click.option(
    "--weights",
    default=DEFAULT_WEIGHTS,
    show_default=True,
    metavar="NAMES",
    help=f"Weights of a patch, multiplied; of {', '.join(WEIGHTS)}; empty: none.",
)
@click.option(
    "--temperature",
    default=1.0,
    show_default=True,
    metavar="T",
    help="Temperature of the patch probabilities; above 1: softer.",
)
@click.option("--kappa", default=1.0, show_default=True, metavar="X", help="confidence: exponent.")
@click.option("--alpha", default=10.0, show_default=True, metavar="W", help="soft_clinical: weight of neuropil.")
@click.option("--beta", default=10.0, show_default=True, metavar="W", help="soft_clinical: weight of Schwann stroma.")
@click.option("--gamma", default=0.1, show_default=True, metavar="W", help="soft_clinical: weight of other tissue.")
@click.option("--double-softmax", is_flag=True, help="soft_clinical: apply softmax twice, as the published code does.")
@click.option(
    "--pool",
    default="mean",
    show_default=True,
    type=click.Choice(["mean", "log", "ordinal"]),
    help="attention: what is averaged, probabilities, their logarithms, or the log odds of ordered classes.",
)
@click.option("--top", "k", default=50, show_default=True, metavar="K", help="topk: number of patches per class.")
@click.option("--quantile", default=0.9, show_default=True, metavar="Q", help="quantile: which quantile, 0–1.")
@click.option(
    "--rule", metavar="CLASS:P:FRACTION", help="threshold: CLASS if FRACTION of the vote has p ≥ P, such as D:0.5:0.05."
)
@click.option(
    "--min-second",
    "second_mm2",
    default=0.5,
    show_default=True,
    metavar="mm²",
    help="Least area of a second subtype.",
)
@click.option(
    "--resamples",
    default=1000,
    show_default=True,
    metavar="N",
    help="Bootstrap resamples of the within-slide sampling interval; 0: none.",
)
@click.option(
    "--interval",
    "interval_level",
    default=0.9,
    show_default=True,
    metavar="LEVEL",
    help="Level of the interval with the model's error, which needs --parameters.",
)
@click.option(
    "--prior",
    default="auto",
    show_default=True,
    metavar="PRIOR",
    help="Class frequencies to correct to: training, balanced, or CLASS=FREQUENCY,…; auto: training, where recorded.",
)
@click.option("--block", "block_um", default=500.0, show_default=True, metavar="µm", help="Side of a bootstrap block.")
@click.option("--seed", default=0, show_default=True, metavar="N", help="Random seed of the bootstrap.")
@click.option(
    "--parameters",
    "fitted",
    type=click.Path(dir_okay=False),
    metavar="JSON",
    help="Parameters written by wsikit evaluate --fit-vote; options on the command line override them.",
)
@click.option("--inpc", "with_inpc", is_flag=True, help="Also apply the INPC rule (research use only).")
@grid_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object per store on standard output.")
@click.pass_context
def command(
    context: click.Context,
    /,
    stores: tuple[str, ...],
    grid: str | None,
    as_json: bool,
    weights: str,
    rule: str | None,
    fitted: str | None,
    with_inpc: bool,
    **settings: Any,
) -> int:
    """Aggregate patch predictions of STORE: a subtype per slide with its margin, or an abstention with its reason."""
    import json
    from dataclasses import replace

    from wsikit.cli.stores import for_each_store
    from wsikit.inference.inpc import apply_inpc, check_same_model, inpc_summary
    from wsikit.inference.vote import own_parameters, vote
    from wsikit.slides.store import SlideStore
    from wsikit.voting import VoteParameters
    from wsikit.voting.fitted_parameters import read_fitted

    chosen = tuple(name.strip() for name in weights.split(",") if name.strip())
    asked = VoteParameters(rule=_rule(rule), weights=chosen, **settings)
    given = _given(context, asked)
    found = None if fitted is None else read_fitted(fitted)

    def decide(store: str) -> str:
        opened = SlideStore(store)
        table = opened.patches(grid)
        if found is not None:
            check_same_model(found, table)
        start = own_parameters(table) if found is None else found.parameters
        if found is None and given.get("method", start.method) != start.method:
            start = VoteParameters()
        parameters = replace(start, **given)
        result = vote(opened, parameters=parameters, grid=grid)
        record = table.votes()[parameters.method]
        rules = found.rules if found else None
        inpc = apply_inpc(opened, grid=grid, rules=rules, prior=parameters.prior) if with_inpc else None
        if as_json:
            more = {} if inpc is None else {"inpc": inpc.to_json()}
            click.echo(json.dumps({"store": store, **record, **more}))
            return ""
        lines = inpc_summary(table, result, tuple(record["classes"])) if with_inpc else []
        if found is not None and found.parameters.learned is not None and result.no_share_interval:
            lines.insert(0, f"  no interval with the model's error: {result.no_share_interval}")
        if result.prior is not None:
            lines.insert(0, f"  probabilities corrected {result.prior.words()}")
        return "\n".join([replace(result, classes=tuple(record["classes"])).summary(), *lines])

    return for_each_store(stores, decide)


def _given(context: click.Context, parameters: VoteParameters) -> dict[str, Any]:
    """The settings given on the command line."""
    from click.core import ParameterSource

    given = [name for name in context.params if context.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    return {name: getattr(parameters, name) for name in given if hasattr(parameters, name)}


def _rule(text: str | None) -> ThresholdRule | None:
    """The rule of --rule CLASS:P:FRACTION."""
    if text is None:
        return None
    from wsikit.errors import RequestError
    from wsikit.voting import ThresholdRule

    try:
        target, t, min_frac = text.rsplit(":", 2)
        return ThresholdRule(target, float(t), float(min_frac))
    except RequestError:
        raise
    except ValueError:
        raise RequestError(f"--rule {text}: expected CLASS:P:FRACTION, such as D:0.5:0.05") from None
