"""`wsikit patients`: one result per patient from the slides of a run."""

from __future__ import annotations

import click


@click.command()
@click.argument("out", type=click.Path(exists=True, file_okay=False), metavar="OUT")
@click.option(
    "--manifest",
    type=click.Path(dir_okay=False),
    metavar="CSV",
    help="CSV with the columns patient, and slide_id or path; default: the manifest of the run.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object per patient on standard output.")
def command(out: str, manifest: str | None, as_json: bool) -> int:
    """Aggregate slide results per patient of a run: OUT/patients.csv.

    Both the area-weighted mean and the worst (least differentiated) grade are given; slides that failed, abstained or
    are missing are named. Exit status 1 if a slide failed, is missing, or has no patient ID.
    """
    import json

    from wsikit.batch.patients import combine_patients, write_patients

    patients = combine_patients(out, manifest=manifest)
    path = write_patients(out, patients)
    for result in patients.results:
        click.echo(json.dumps(result.to_json()) if as_json else f"{result.patient}: {result.words()}")
    if patients.without_patient:
        click.echo(f"no patient ID: {', '.join(patients.without_patient)}", err=True)
    if not as_json:
        click.echo(f"{path}: {len(patients.results)} patients, slides weighted by {patients.weighted_by}")
    return 0 if patients.complete else 1
