"""`wsikit encoders`: the encoders that have a name, and everything about one of them. Nothing is fetched."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from wsikit.encoders.listing import EncoderEntry


@click.command()
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="JSON on standard output: a list, or one object for NAME.")
def command(name: str | None, as_json: bool) -> int:
    """List the encoders of patches that have a name: width of their features, the patches they were made for, licence,
    and whether their weights are here. With NAME: everything about one, the source of each fact, and what to type.
    NAME may be any encoder that --encoder takes.

    Besides these, any folder of timm, transformers or open_clip is an encoder, a TorchScript or ONNX file, and
    hf-hub:ID, timm:NAME and random:NAME (docs/encoders.md).
    """
    import json
    from dataclasses import asdict

    from wsikit.encoders.listing import facts_of, list_encoders

    if name is not None:
        facts = facts_of(name)
        click.echo(json.dumps(facts, indent=1)) if as_json else _show_one(facts)
        return 0
    entries = list_encoders()
    click.echo(json.dumps([asdict(entry) for entry in entries], indent=1)) if as_json else _show(entries)
    return 0


def _show(entries: list[EncoderEntry]) -> None:
    from rich.table import Table

    from wsikit.cli.console import make_console
    from wsikit.encoders.listing import hub_place

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for title, side in (("name", "left"), ("width", "right"), ("px", "right"), ("µm/px", "right"), ("texts", "left"),
                        ("weights", "left"), ("licence", "left")):  # fmt: skip
        table.add_column(title, justify="right" if side == "right" else "left", no_wrap=title != "licence")
    for entry in entries:
        table.add_row(
            entry.name,
            "–" if entry.width is None else str(entry.width),
            "–" if entry.patch_px is None else str(entry.patch_px),
            "any" if entry.mpp is None else f"{entry.mpp:g}",
            "yes" if entry.texts else "no",
            _weights(entry),
            entry.licence,
        )
    console = make_console()
    console.print(table)
    console.print(
        f"\nWeights are searched in {hub_place()}. gated: to be asked for at the hub; wsikit encoders NAME shows how.",
        markup=False,
        soft_wrap=True,
    )


def _weights(entry: EncoderEntry) -> str:
    if not entry.supported:
        return "no loader"
    if entry.here:
        return "here"
    return "gated" if entry.gated else "open"


def _show_one(facts: dict[str, Any]) -> None:
    if "transform" not in facts:
        _show_rows(_described(facts))
        return
    transform = facts["transform"]
    scale = _scale(facts)
    cut = "" if transform["resize"] == transform["crop"] else f" resized to {transform['resize']} px, of which"
    rows = {
        "name": facts["name"],
        "features": f"{facts['width']} numbers per patch ({_POOLING[facts['pooling']]})",
        "patches": f"{facts['patch_px']} px at {scale}",
        "seen by the model": f"{cut} {transform['crop']} px, {transform['interpolation']}".strip(),
        "mean, std": f"{_three(transform['mean'])}; {_three(transform['std'])}",
        "texts": _texts(facts),
        "licence": facts["licence"] + (" (gated)" if facts["gated"] else ""),
        "weights": ("here, " if facts["here"] else "not here, ") + facts["page"],
        "architecture": f"{facts['kind']}: {facts['architecture']}",
        "built with": ", ".join(f"{name} {value}" for name, value in facts["options"].items()) or "nothing else",
        "parameters": facts["parameters"] or "–",
        **{f"source of {fact}": address for fact, address in facts["sources"].items()},
        "notes": "\n".join(facts["notes"]) or "–",
        "use": facts["use"],
    }
    _show_rows(rows)


def _described(facts: dict[str, Any]) -> dict[str, str]:
    """The rows of an encoder that is no preset."""
    return {
        "name": facts["name"],
        "features": f"{facts['width']} numbers per patch",
        "patches": f"{facts['patch_px']} px at {_scale(facts)}",
        "texts": _texts(facts),
        "licence": facts["licence"] or "–",
        "source": facts["source"],
        "fingerprint": facts["fingerprint"],
        "notes": "\n".join(facts["notes"]) or "–",
        "use": facts["use"],
    }


def _scale(facts: dict[str, Any]) -> str:
    return "any scale" if facts["mpp"] is None else f"{facts['mpp']:g} µm/px"


def _texts(facts: dict[str, Any]) -> str:
    return "no" if facts["shared_width"] is None else f"yes, shared space of {facts['shared_width']}"


def _show_rows(rows: dict[str, str]) -> None:
    from rich.table import Table

    from wsikit.cli.console import make_console

    table = Table(show_header=False, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, value)
    make_console().print(table)


_POOLING = {
    "model": "as the model gives them",
    "cls": "class token",
    "mean": "mean of the patch tokens",
    "cls+mean": "class token and mean of the patch tokens",
    "pooler": "pooled output",
}


def _three(values: list[float]) -> str:
    return " ".join(f"{value:g}" for value in values)
