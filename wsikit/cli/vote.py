"""`wsikit vote`: one subtype per store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from wsikit.cli.options import grid_option, stores_argument

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wsikit.voting import SlideResult, ThresholdRule

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
"""As `wsikit.voting.METHODS`, which would load NumPy for a help text."""

WEIGHTS = ("tissue", "readable", "quality", "overlap", "key_tissue")
DEFAULT_WEIGHTS = "tissue,readable,quality,overlap"


@click.command()
@stores_argument
@click.option(
    "--method",
    default="mean",
    show_default=True,
    type=click.Choice(METHODS),
    help="How patches are put together; docs/voting.md has the formulas.",
)
@click.option(
    "--min-patches", default=20.0, show_default=True, metavar="N", help="Abstain with fewer effective patches."
)
@click.option(
    "--min-margin", default=0.1, show_default=True, metavar="SHARE", help="Abstain if the two ahead differ by less."
)
@click.option(
    "--max-novel",
    default=0.5,
    show_default=True,
    metavar="SHARE",
    help="Abstain if more of the vote is unlike the training patches.",
)
@click.option(
    "--smooth",
    default="none",
    show_default=True,
    type=click.Choice(["none", "median", "mrf"]),
    help="Even out neighbouring patches first.",
)
@click.option("--coupling", default=0.5, show_default=True, metavar="LOGODDS", help="mrf: pull of one neighbour.")
@click.option(
    "--weights",
    default=DEFAULT_WEIGHTS,
    show_default=True,
    metavar="NAMES",
    help=f"What a patch's voice is multiplied with, of {', '.join(WEIGHTS)}; empty: nothing.",
)
@click.option("--kappa", default=1.0, show_default=True, metavar="X", help="confidence: exponent.")
@click.option("--alpha", default=10.0, show_default=True, metavar="W", help="soft_clinical: weight of neuropil.")
@click.option("--beta", default=10.0, show_default=True, metavar="W", help="soft_clinical: of Schwannian stroma.")
@click.option("--gamma", default=0.1, show_default=True, metavar="W", help="soft_clinical: of other tissue.")
@click.option("--double-softmax", is_flag=True, help="soft_clinical: as the published code does.")
@click.option("--top", "k", default=20, show_default=True, metavar="K", help="topk: patches per class.")
@click.option("--quantile", default=0.9, show_default=True, metavar="Q", help="quantile: which, 0 to 1.")
@click.option(
    "--rule", metavar="CLASS:P:SHARE", help="threshold: CLASS if SHARE of the vote has p ≥ P, such as D:0.5:0.05."
)
@click.option(
    "--min-second", "second_mm2", default=0.5, show_default=True, metavar="mm²", help="Least area of a second subtype."
)
@click.option(
    "--resamples", default=1000, show_default=True, metavar="N", help="Draws for the interval; 0: no interval."
)
@click.option("--block", "block_um", default=500.0, show_default=True, metavar="µm", help="Side of a square drawn.")
@click.option("--seed", default=0, show_default=True, metavar="N", help="Of the draws.")
@grid_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object per store on standard output.")
def command(
    stores: tuple[str, ...], grid: str | None, as_json: bool, weights: str, rule: str | None, **settings: Any
) -> int:
    """Put the patches of STORE together: a subtype per slide with its margin, or an abstention with its reason."""
    import json

    from wsikit.cli.stores import for_each_store
    from wsikit.inference.voting import vote
    from wsikit.slides.store import SlideStore
    from wsikit.voting import VoteParameters

    chosen = tuple(name.strip() for name in weights.split(",") if name.strip())
    parameters = VoteParameters(rule=_rule(rule), weights=chosen, **settings)

    def decide(store: str) -> str:
        opened = SlideStore(store)
        result = vote(opened, parameters=parameters, grid=grid)
        record = opened.patches(grid).votes()[parameters.method]
        if as_json:
            click.echo(json.dumps({"store": store, **record}))
            return ""
        return _words(result, record["classes"])

    return for_each_store(stores, decide)


def _rule(text: str | None) -> ThresholdRule | None:
    """The rule that --rule writes as CLASS:P:SHARE."""
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
        raise RequestError(f"--rule {text}: expected CLASS:P:SHARE, such as D:0.5:0.05") from None


def _words(result: SlideResult, classes: Sequence[str]) -> str:
    """A result on one line."""
    import math

    shares = []
    for index, (code, share) in enumerate(zip(classes, result.probs.tolist(), strict=True)):
        if not math.isfinite(share):
            continue
        span = ""
        if result.interval is not None:
            span = f" [{result.interval.low[index]:.2f}, {result.interval.high[index]:.2f}]"
        shares.append(f"{code} {share:.2f}{span}")
    said = ", ".join(shares) or "no probabilities"
    if result.label is None:
        verdict = f"abstained: {result.reason} ({said})"
    else:
        verdict = f"{classes[result.label]}, margin {result.margin:.2f} ({said})"
    if result.second is not None:
        verdict += f"; also {classes[result.second.index]}, {result.second.area_mm2:.3g} mm² in one piece"
    return verdict
