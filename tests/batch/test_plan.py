"""The plan of a run: what is complete, what is missing, why something is made again. Making a plan changes nothing."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tifffile

from wsikit.batch.log import RunLog
from wsikit.batch.plan import PATCHES_PER_S, RunPlan, changes_since, difference, measured_rates
from wsikit.batch.revisions import REVISIONS
from wsikit.batch.run import plan_run, run
from wsikit.cli.main import main
from wsikit.inference.budget import Budget
from wsikit.store.receipts import Receipt
from wsikit.voting import VoteParameters

NAMES = ["pixels", "tissue", "patches", "quality", "captions", "predictions", "vote", "map and report"]


@pytest.fixture
def plan(model_folder: Path, slide_path: Path, tmp_path: Path) -> Callable[..., RunPlan]:
    def make(*slides: Path, **settings: Any) -> RunPlan:
        return plan_run(slides or slide_path, tmp_path / "out", **{"model": model_folder, **settings})

    return make


@pytest.fixture
def done(model_folder: Path, slide_path: Path, tmp_path: Path) -> Path:
    """The output folder of a finished run."""
    assert run(slide_path, tmp_path / "out", model=model_folder).exit_status == 0
    return tmp_path / "out"


def states(plan: RunPlan) -> dict[str, str]:
    (slide,) = plan.slides
    return {stage.name: stage.state for stage in slide.stages}


def files(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_all_stages_of_a_new_slide_are_missing_and_nothing_is_written(
    plan: Callable[..., RunPlan], tmp_path: Path
) -> None:
    made = plan()
    assert states(made) == dict.fromkeys(NAMES, "missing")
    assert made.slides[0].n_patches
    assert not made.slides[0].patches_exact
    assert not (tmp_path / "out").exists()


def test_a_finished_slide_is_recognised_without_checking_its_stages(plan: Callable[..., RunPlan], done: Path) -> None:
    before = files(done)
    made = plan()
    assert made.slides[0].finished
    assert made.changes == ()
    assert "1 finished, 0 to do" in str(made)
    assert files(done) == before


@pytest.mark.parametrize(
    ("settings", "first", "kept", "reason"),
    [
        ({"vote": VoteParameters(min_margin=0.4)}, "vote", "predictions", "min_margin was 0.1, now 0.4"),
        ({"vote": VoteParameters(smooth="median")}, "vote", "predictions", "smooth was none, now median"),
        ({"min_tissue": 0.6}, "patches", "tissue", "min_tissue was 0.25, now 0.6"),
        ({"captioner": "morphometry-in-slide"}, "captions", "quality", "captioner"),
        ({"stain": "macenko"}, "predictions", "captions", "stain was not set"),
    ],
)
def test_a_changed_setting_redoes_what_depends_on_it_and_says_why(
    plan: Callable[..., RunPlan], done: Path, settings: dict[str, Any], first: str, kept: str, reason: str
) -> None:
    made = plan(**settings)
    found = states(made)
    assert found[first] == "redo"
    assert found[kept] == "done"
    (stage,) = (stage for stage in made.slides[0].stages if stage.name == first)
    assert reason in stage.reason
    assert made.changes
    text = str(made)
    assert stage.reason in text
    assert "Nothing was changed" in text


def test_the_run_does_what_the_plan_states(
    plan: Callable[..., RunPlan], done: Path, model_folder: Path, slide_path: Path
) -> None:
    made = plan(vote=VoteParameters(min_margin=0.4))
    assert [stage.name for stage in made.slides[0].to_do] == ["vote", "map and report"]
    store = done / "slides" / "disc.zarr"
    before = files(store / "patches")
    result = run(slide_path, done, model=model_folder, vote=VoteParameters(min_margin=0.4))
    assert result.exit_status == 0
    assert result.changes == made.changes == ("vote.min_margin: 0.1 → 0.4",)
    after = files(store / "patches")
    changed = [path for path in after if after[path] != before.get(path) and Path(path).is_file()]
    assert changed
    assert all("votes" in path for path in changed)
    assert plan(vote=VoteParameters(min_margin=0.4)).slides[0].finished


def test_another_model_redoes_predictions_only(
    plan: Callable[..., RunPlan], done: Path, model_folder: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(model_folder, tmp_path / "other")
    record = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**record, "version": "2"}))
    made = plan(model=other)
    assert states(made) == dict.fromkeys(NAMES[:5], "done") | dict.fromkeys(NAMES[5:], "redo")
    assert any("model" in change for change in made.changes)


@pytest.mark.parametrize("lost", ["column", "shard", "map"])
def test_a_lost_file_makes_the_slide_unfinished(plan: Callable[..., RunPlan], done: Path, lost: str) -> None:
    store = done / "slides" / "disc.zarr"
    if lost == "column":
        shutil.rmtree(next(store.glob("patches/*/gate")))
    elif lost == "shard":
        next(path for path in (store / "0" / "c").rglob("*") if path.is_file()).unlink()
    else:
        (done / "results" / "disc" / "map.png").unlink()
    made = plan()
    assert not made.slides[0].finished
    expected = {"column": "predictions", "shard": None, "map": "map and report"}[lost]
    if expected:
        assert states(made)[expected] == "missing"


def test_a_changed_source_redoes_everything(
    plan: Callable[..., RunPlan], done: Path, slide_path: Path, write_slide: Callable[..., Path], pixels: Any
) -> None:
    write_slide(slide_path, 255 - (255 - pixels) // 2)
    made = plan()
    assert set(states(made).values()) == {"redo"}
    (first, *_) = made.slides[0].stages
    assert "source changed" in first.reason


def test_a_slide_that_cannot_be_opened_is_in_the_plan_with_its_fault(
    plan: Callable[..., RunPlan], slide_path: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.svs"
    broken.write_bytes(b"II*\0" + b"\1" * 500)
    made = plan(slide_path, broken)
    assert "broken.svs" in made.slides[1].fault
    assert "1 cannot be opened" in str(made)


def test_generated_captions_are_not_loaded_to_make_a_plan(
    plan: Callable[..., RunPlan], done: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wsikit.captions import registry

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(registry, "load_captioner", refuse)
    made = plan(captioner="phantom-captioner", caption_budget=Budget(3))
    assert states(made)["captions"] in ("unknown", "redo")


def test_the_dry_run_prints_the_plan_and_changes_nothing(
    done: Path, model_folder: Path, slide_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files(done)
    with pytest.raises(SystemExit) as ended:
        main(
            ["run", str(slide_path), "--model", str(model_folder), "--min-tissue", "0.6", "-o", str(done), "--dry-run"]
        )
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    for part in ("min_tissue: 0.25 → 0.6", "↻ patches", "✓ pixels", "patches", "free"):
        assert part in printed
    assert files(done) == before


def test_estimates_use_the_measured_rates_of_earlier_runs(done: Path) -> None:
    rates = measured_rates(done)
    assert rates.keys() == PATCHES_PER_S.keys()
    assert all(rates[name] != PATCHES_PER_S[name] for name in rates)


def test_a_pass_for_two_stages_is_shared_and_an_interrupted_one_counts_what_was_done(tmp_path: Path) -> None:
    assert measured_rates(tmp_path) == PATCHES_PER_S
    log = RunLog(tmp_path)
    log.write("end", stage="quality and captions", done=100, total=100, unit="patches", seconds=4.0)
    log.write("end", stage="predictions", done=30, total=100, unit="patches", seconds=3.0)
    assert measured_rates(tmp_path) == {"quality": 50.0, "captions": 50.0, "predictions": 10.0}


def test_a_run_names_the_settings_that_changed(
    done: Path, model_folder: Path, slide_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["run", str(slide_path), "--model", str(model_folder), "--vote-method", "hard", "-o", str(done)])
    assert ended.value.code == 0
    assert "Changed since the previous run: vote.method: mean → hard" in capsys.readouterr().out


def test_run_json_is_the_plan(done: Path, model_folder: Path) -> None:
    record = json.loads((done / "run.json").read_text())
    assert record["model"]["name"] == "tiny"
    assert record["configuration"]["vote"]["method"] == "mean"
    assert record["configuration"]["image"]["pixels"] == "keep"
    assert record["captioner"]["spec"] == "morphometry"
    assert changes_since(done, record) == ()
    changed = {**record, "configuration": {**record["configuration"], "min_roi": 1.0}}
    assert changes_since(done, changed) == ("min_roi: 0.5 → 1.0",)
    old_names = json.dumps(record).replace('"max_ood"', '"max_novel"')  # as written before store format 3
    (done / "run.json").write_text(old_names, encoding="utf-8")
    assert changes_since(done, record) == ()


def test_the_difference_of_receipts_names_what_changed() -> None:
    old = Receipt("vote", 1, {"a": {"b": 1, "c": 2}}, {"image": "x", "gone": "y"})
    assert difference(old, Receipt("vote", 2, old.parameters, old.inputs)).startswith("made by an earlier version")
    new = Receipt("vote", 1, {"a": {"b": 1, "c": 3}}, {"image": "z", "caption": "w"})
    assert difference(old, new) == "a.c was 2, now 3; image changed; gone removed; caption added"


def test_the_revisions_are_those_of_the_stages() -> None:
    from wsikit.captions import load_captioner
    from wsikit.inference.features import FEATURES_REVISION
    from wsikit.inference.generative_captions import CAPTION_REVISION
    from wsikit.inference.predict import PREDICT_REVISION
    from wsikit.inference.vote import VOTE_REVISION
    from wsikit.results.outputs import OUTPUTS_REVISION
    from wsikit.tiling.image import IMAGE_REVISION
    from wsikit.tiling.patches import PATCHES_REVISION, QUALITY_REVISION, TISSUE_REVISION

    assert {
        "image": IMAGE_REVISION,
        "tissue": TISSUE_REVISION,
        "patches": PATCHES_REVISION,
        "quality": QUALITY_REVISION,
        "caption": CAPTION_REVISION,
        "morphometry": load_captioner("morphometry").fingerprint()["version"],
        "morphometry-in-slide": load_captioner("morphometry-in-slide").fingerprint()["version"],
        "features": FEATURES_REVISION,
        "predict": PREDICT_REVISION,
        "vote": VOTE_REVISION,
        "outputs": OUTPUTS_REVISION,
    } == REVISIONS


def test_a_finished_run_imports_nothing_heavy(done: Path, model_folder: Path, slide_path: Path) -> None:
    arguments = ["run", str(slide_path), "--model", str(model_folder), "-o", str(done)]
    code = (
        "import sys\nfrom wsikit.cli.main import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "print('|'.join(sorted({name.split('.')[0] for name in sys.modules})))"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    loaded = set(printed.strip().splitlines()[-1].split("|"))
    assert loaded.isdisjoint({"torch", "transformers", "timm", "zarr", "skimage", "scipy", "matplotlib", "dask"})


def test_a_corrected_pixel_size_is_a_reason_and_reaches_the_row(
    model_folder: Path, tmp_path: Path, pixels: Any
) -> None:
    slide, manifest, out = tmp_path / "unscaled.tiff", tmp_path / "manifest.csv", tmp_path / "out"
    tifffile.imwrite(slide, pixels, tile=(128, 128), photometric="rgb", metadata=None)
    for mpp in (1.0, 0.5):
        manifest.write_text(f"path,mpp\n{slide.name},{mpp}\n")
        if mpp == 0.5:
            made = plan_run(manifest, out, model=model_folder)
            assert "mpp was [1.0, 1.0], now [0.5, 0.5]" in made.slides[0].stages[0].reason
        (row,) = run(manifest, out, model=model_folder)
        assert (row.mpp_x, row.mpp_source) == (mpp, "manifest")
    assert plan_run(manifest, out, model=model_folder).slides[0].finished
