"""`wsikit train` and `wsikit evaluate` of a model on slide labels: from its configuration to lines on the terminal."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from wsikit.training.mil.cohort import Bag
    from wsikit.training.mil.config import MilTrainConfig
    from wsikit.training.mil.fit import MilEpoch

COHORT = "cohort"
"""Folder of OUT with slides that are made for a training."""


def train_mil(
    config: str,
    data: str | None,
    out: Path,
    resume: bool,
    device: str,
    threads: int | None,
    *,
    say: Callable[[str], None],
) -> int:
    """Make the slides if they are synthetic, train, print the test metrics, write maps."""
    from wsikit.training.mil.config import read_mil_config
    from wsikit.training.run_record import check_out

    settings = read_mil_config(config, data=data)  # before torch, which takes seconds to import
    check_out(out, resume)
    manifest = _manifest(settings, out, device, say)
    import torch

    from wsikit.training.mil.networks import MilCallbacks
    from wsikit.training.mil.run import run_mil_training

    if threads is not None:
        torch.set_num_threads(threads)

    def show_epoch(record: MilEpoch) -> None:
        if record.epoch % 10 == 0:
            losses = f"{record.loss:.3f} in training, {record.validation:.3f} in validation"
            say(f"fold {record.fold + 1}, epoch {record.epoch + 1}: loss {losses}")

    callbacks = MilCallbacks(message=say, epoch=show_epoch)
    metrics = run_mil_training(settings, manifest, out, resume=resume, device=device, callbacks=callbacks)
    show(metrics["test"])
    if settings.maps:
        _write_maps(settings, manifest, out, say)
    click.echo(f"{out}/model: use it with  wsikit run SLIDE --model {out}/model -o …")
    return 0


def evaluate_mil(
    model: str, config: str | None, data: str | None, out: Path, chosen: dict[str, Any], as_json: bool
) -> int:
    """Evaluate a model on slide labels, by slide and by patient."""
    from wsikit.models.registry import load_patch_model
    from wsikit.training.mil.config import read_mil_config
    from wsikit.training.mil.networks import MilCallbacks
    from wsikit.training.mil.run import run_mil_evaluation
    from wsikit.training.run_record import CONFIG_COPY

    place = Path(config) if config is not None else Path(model).parent / CONFIG_COPY
    settings = read_mil_config(place, data=data)
    device = chosen.pop("device")
    manifest = settings.data.manifest or _made(Path(model).parent)
    loaded: Any = load_patch_model(model, device=device)
    split_file = chosen.pop("split_file")
    metrics = run_mil_evaluation(
        loaded,
        settings,
        manifest,
        out,
        folder=Path(model),
        split_file=None if split_file is None else Path(split_file),
        callbacks=MilCallbacks(message=lambda text: click.echo(text, err=True)),
        **chosen,
    )
    if as_json:
        click.echo(json.dumps(metrics))
    else:
        show(metrics["results"])
    return 0


def show(results: dict[str, Any]) -> None:
    """Lines of the measures, by slide and by patient."""
    from wsikit.training.mil.card import MEASURES

    for way, found in results.items():
        for level in ("slide", "patient"):
            part = found[level]
            if "reason" in part:
                click.echo(f"{way}, by {level}: {part['reason']}")
                continue
            figures = [_figure(words, part.get(name)) for name, words in MEASURES.items()]
            click.echo(f"{way}, by {level} (n {part['n']}): {', '.join(one for one in figures if one)}")


def _figure(words: str, figure: dict[str, float | None] | None) -> str:
    if not figure or figure["value"] is None:
        return ""
    if figure["low"] is None:
        return f"{words} {figure['value']:.3f}"
    return f"{words} {figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]"


def _manifest(settings: MilTrainConfig, out: Path, device: str, say: Callable[[str], None]) -> str | Path:
    """The manifest of the configuration; that of synthetic slides, which are made."""
    source = settings.data.phantoms
    if source is None:
        assert settings.data.manifest is not None  # checked
        return settings.data.manifest
    from wsikit.phantom.cohort import PhantomCohort, make_cohort

    def done(slides: int, total: int) -> None:
        if slides * 10 // total != (slides - 1) * 10 // total:
            say(f"slides made: {slides} of {total}")

    cohort = PhantomCohort(source.seeds, source.slide_px, source.min_tissue)
    return make_cohort(cohort, out / COHORT, encoder=settings.features, device=device, on_done=done)


def _made(out: Path) -> Path:
    from wsikit.phantom.cohort import MANIFEST

    return out / COHORT / MANIFEST


def _write_maps(settings: MilTrainConfig, manifest: str | Path, out: Path, say: Callable[[str], None]) -> None:
    """Maps of test slides; of synthetic ones also next to what is planted, with the Dice of the maps."""
    from wsikit.models.registry import load_patch_model
    from wsikit.training.mil.maps import write_maps

    model = load_patch_model(out / "model")
    tested = _test_slides(settings, manifest, out)
    paths = write_maps(model, tested[: settings.maps], out / "maps")
    say(f"{len(paths)} maps in {out / 'maps'}")
    if settings.data.phantoms is not None:
        _compare(model, tested, settings.maps, out)


def _test_slides(settings: MilTrainConfig, manifest: str | Path, out: Path) -> list[Bag]:
    from wsikit.training.mil.cohort import read_cohort
    from wsikit.training.run_record import SPLITS_FILE
    from wsikit.training.splits import TEST, read_splits

    cohort = read_cohort(settings, manifest)
    rows = read_splits(out / SPLITS_FILE, cohort.patch_set(settings.task))[0][TEST]
    return [cohort.bags[row] for row in rows]


def _compare(model: Any, tested: list[Bag], pictures: int, out: Path) -> None:
    """Dice of the maps of all synthetic test slides, and panels of some."""
    from wsikit.phantom.cohort import slide_of
    from wsikit.phantom.map_panels import write_panels
    from wsikit.phantom.map_scores import dice_table, slide_maps
    from wsikit.phantom.truth import load_truth
    from wsikit.results.load import StoredResults
    from wsikit.slides.store import SlideStore
    from wsikit.store.atomic import write_json

    scored = []
    for index, bag in enumerate(tested):
        truth, found = load_truth(slide_of(Path(bag.store))), model.slide(bag.features)
        classes = model.info.classes
        scored.append(
            slide_maps(truth, bag.coords, classes, found["patch_probability"], found["attention"], slide=bag.slide)
        )
        if index < pictures:
            with SlideStore(bag.store) as store:
                write_panels(out / "maps" / f"{bag.slide}_planted.png", StoredResults(store, bag.grid), truth)
    table = dice_table(scored)
    write_json(out / "maps" / "dice.json", table)
    click.echo(f"Dice of the patches of the slide's subtype, mean over {len(scored)} test slides:")
    for name, row in table.items():
        click.echo(f"  {name:48s} {row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]")
