"""`wsikit vote`: one subtype per store."""

from __future__ import annotations

import click

from wsikit.cli.options import grid_option, stores_argument


@click.command()
@stores_argument
@click.option(
    "--method",
    default="mean",
    show_default=True,
    type=click.Choice(["mean", "hard", "confidence"]),
    help="Mean probability, majority of patches, or mean weighted by each patch's certainty.",
)
@click.option(
    "--min-patches", default=20.0, show_default=True, metavar="N", help="Abstain with fewer effective patches."
)
@click.option(
    "--min-margin", default=0.1, show_default=True, metavar="SHARE", help="Abstain if the two ahead differ by less."
)
@grid_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object per store on standard output.")
def command(
    stores: tuple[str, ...], method: str, min_patches: float, min_margin: float, grid: str | None, as_json: bool
) -> int:
    """Put the patches of STORE together: a subtype per slide with its margin, or an abstention with its reason."""
    import json

    from wsikit.cli.stores import for_each_store
    from wsikit.inference.stages import VoteParameters, vote
    from wsikit.slides.store import SlideStore

    parameters = VoteParameters(method, min_patches, min_margin)

    def decide(store: str) -> str:
        opened = SlideStore(store)
        result = vote(opened, parameters=parameters, grid=grid)
        record = opened.patches(grid).votes()[method]
        if as_json:
            click.echo(json.dumps({"store": store, **record}))
            return ""
        shares = ", ".join(
            f"{code} {share:.2f}" for code, share in zip(record["classes"], record["probs"]) if share is not None
        )
        if result.label is None:
            return f"abstained: {result.reason} ({shares or 'no probabilities'})"
        return f"{record['classes'][result.label]}, margin {result.margin:.2f} ({shares})"

    return for_each_store(stores, decide)
