"""`wsikit patients`: one result per patient out of a run's slides."""

from __future__ import annotations

import click


@click.command()
@click.argument("out", type=click.Path(exists=True, file_okay=False), metavar="OUT")
@click.option(
    "--manifest",
    type=click.Path(dir_okay=False),
    metavar="CSV",
    help="Columns patient, and slide_id or path; default: what the manifest of the run said.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object per patient on standard output.")
def command(out: str, manifest: str | None, as_json: bool) -> int:
    """Put the slides of each patient of a run together: OUT/patients.csv.

    The area-weighted mean and the worst (least differentiated) grade are both given; slides that failed, abstained or
    are missing are named. Exit status 1 if a slide failed, is missing, or is nobody's.
    """
    import json

    from wsikit.batch.patients import combine_patients, write_patients

    patients = combine_patients(out, manifest=manifest)
    path = write_patients(out, patients)
    for result in patients.results:
        click.echo(json.dumps(result.to_json()) if as_json else f"{result.patient}: {result.words()}")
    if patients.without_patient:
        click.echo(f"nobody's: {', '.join(patients.without_patient)}", err=True)
    if not as_json:
        click.echo(f"{path}: {len(patients.results)} patients, slides weighted by {patients.weighted_by}")
    return 0 if patients.complete else 1
