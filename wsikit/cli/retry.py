"""`wsikit retry`: the failed slides of a run again, with the settings in its run.json."""

from __future__ import annotations

import click

from wsikit.cli.options import executor_options, reporting_options


@click.command()
@click.argument("out", type=click.Path(exists=True, file_okay=False))
@click.option("--device", default="auto", show_default=True, type=click.Choice(["auto", "cpu", "cuda"]))
@reporting_options
@executor_options
def command(out: str, device: str, fail_fast: bool, log_json: bool, scheduler: str, workers: int | None) -> int:
    """Run the slides again that failed in the last run in OUT, or in which its process died.

    Settings and slides are those in OUT/run.json; other slides are not touched. After a change of the manifest, or with
    other settings, run the command of the run itself again: it keeps what is finished, too.

    Exit status: 0 all of them are done, or none had failed; 1 some failed again; 2 the settings cannot be restored.
    """
    from wsikit.batch.retry import read_request
    from wsikit.cli.run import run_in_terminal
    from wsikit.models.registry import describe_model

    entries, settings = read_request(out)
    notice = describe_model(settings["model"]).notice
    settings |= {"device": device, "scheduler": scheduler, "workers": workers, "only_failed": True}
    result = run_in_terminal(list(entries), out, notice=notice, log_json=log_json, fail_fast=fail_fast, **settings)
    return result.exit_status
