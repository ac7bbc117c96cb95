"""LoRA fine-tuning by the real loading path: what is adapted, on whom, what is kept, and that a kill costs an epoch."""

from __future__ import annotations

import csv
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from wsikit.captions import fact_f1
from wsikit.captions.vlm import load_vlm
from wsikit.captions.vlm.files import ADAPTER_WEIGHTS, find_adapter, model_fingerprint
from wsikit.captions.vlm.loading import choose_place, load_base
from wsikit.cli.finetune_captioner import command
from wsikit.errors import ModelError, RequestError
from wsikit.training.captioner.adapters import add_lora, merge_adapter, resolve_targets
from wsikit.training.captioner.finetune import finetune_captioner, prepare
from wsikit.training.captioner.folds import out_of_fold_captions
from wsikit.training.captioner.patients import refuse_seen_patients
from wsikit.training.captioner.settings import LANGUAGE_TARGETS, FinetuneSettings
from wsikit.training.datasets import ImageTable

Make = Callable[..., ImageTable]
QUICK = FinetuneSettings(
    image_px=56,
    rank=8,
    alpha=16,
    dropout=0.1,
    epochs=2,
    lr=5e-3,
    batch=4,
    accumulate=2,
    max_new_tokens=12,
    turns=True,
    gradient_checkpointing=False,
)


@pytest.fixture(scope="module")
def trained(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory, make_table: Make) -> tuple[Path, dict]:
    """An adapter after two epochs, and its record."""
    out = tmp_path_factory.mktemp("finetuned") / "out"
    return out, finetune_captioner(make_table(48), model=tiny_folder, out=out, settings=QUICK, device="cpu")


def test_only_the_language_layers_are_adapted_unless_vision_is_asked_for(tiny_folder: Path) -> None:
    model, _ = load_base(tiny_folder, choose_place("cpu"))
    language = resolve_targets(model, LANGUAGE_TARGETS)
    assert len(language) == 7 * 2
    assert all(".language_model.layers." in name for name in language)
    both = resolve_targets(model, FinetuneSettings(vision_mlps=True).pattern)
    assert {name for name in both if name not in language} == {
        f"model.visual.blocks.{block}.mlp.{part}_proj" for block in (0, 1) for part in ("gate", "up", "down")
    }


def test_the_layers_adapted_are_in_the_record_and_in_the_weights(trained: tuple[Path, dict]) -> None:
    from safetensors import safe_open

    out, record = trained
    with safe_open(out / "adapter" / ADAPTER_WEIGHTS, "pt") as file:
        names = {name.removeprefix("base_model.model.").rpartition(".lora_")[0] for name in file.keys()}  # noqa: SIM118
    assert names == set(record["modules"])
    assert not any("visual" in name for name in names)


def test_targets_that_match_nothing_are_refused_with_names_that_exist(tiny_folder: Path) -> None:
    model, _ = load_base(tiny_folder, choose_place("cpu"))
    with pytest.raises(ModelError, match=r"no linear layer .* it has, for example, model\."):
        resolve_targets(model, "q_proj")


def test_a_second_adapter_on_the_same_base_is_refused(tiny_folder: Path, trained: tuple[Path, dict]) -> None:
    from wsikit.captions.vlm.loading import attach

    model, _ = load_base(tiny_folder, choose_place("cpu"))
    adapted, _ = add_lora(model, QUICK)
    print_of_base = model_fingerprint(tiny_folder)
    for used in (adapted, model):
        with pytest.raises(ModelError, match="already has an adapter"):
            attach(used, find_adapter(trained[0]), base_fingerprint=print_of_base)


def test_an_adapter_of_another_base_is_refused(tiny_folder: Path, trained: tuple[Path, dict], tmp_path: Path) -> None:
    other = shutil.copytree(tiny_folder, tmp_path / "other")
    (other / "chat_template.jinja").write_text((other / "chat_template.jinja").read_text() + " ")
    with pytest.raises(ModelError, match="trained on another base .tiny-qwen"):
        load_vlm(other, adapter=trained[0], device="cpu")


def test_an_adapter_with_spoilt_weights_is_refused(
    tiny_folder: Path,
    trained: tuple[Path, dict],
    tmp_path: Path,
    fault_of_weights: str,
    refuses_spoilt_weights: Callable[..., None],
) -> None:
    adapter = shutil.copytree(trained[0] / "adapter", tmp_path / "adapter")
    load = lambda: load_vlm(tiny_folder, adapter=adapter, device="cpu")  # noqa: E731
    refuses_spoilt_weights(adapter / ADAPTER_WEIGHTS, fault_of_weights, load, place=str(adapter))


def test_an_adapter_much_larger_than_its_weights_is_refused_before_it_is_built(
    tiny_folder: Path, trained: tuple[Path, dict], tmp_path: Path
) -> None:
    adapter = shutil.copytree(trained[0] / "adapter", tmp_path / "adapter")
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"r": 10**6}))
    with pytest.raises(ModelError, match="many more than there are in this file"):
        load_vlm(tiny_folder, adapter=adapter, device="cpu")


def test_words_that_name_the_diagnosis_never_become_targets(make_table: Make) -> None:
    table = make_table(12, captions=("Poorly differentiated, abundant blood (PD).", "No blood.", "Scant neuropil."))
    material = prepare(table)
    n = sum("PD" in (text or "") for text in table.captions)
    assert n > 0
    assert material.scrubbed == n
    assert all("differentiated" not in text and "PD" not in text for text in material.answers)


def test_a_description_that_is_nothing_but_the_diagnosis_is_refused(make_table: Make) -> None:
    with pytest.raises(RequestError, match="contain only the diagnosis"):
        prepare(make_table(12, captions=("Poorly differentiated", "No blood.", "Scant neuropil.")))


def test_rows_without_a_description_are_left_out_and_counted(make_table: Make) -> None:
    table = make_table(12)
    material = prepare(replace(table, captions=(None, *table.captions[1:])))
    assert (material.undescribed, len(material.answers)) == (1, 11)
    assert "image_0.png" not in material.table.files


def test_no_patient_validates_what_he_was_trained_on(trained: tuple[Path, dict]) -> None:
    seen = trained[1]["patients"]
    assert len(seen["trained"]) + len(seen["validated"]) == 6
    assert not set(seen["trained"]) & set(seen["validated"])
    with pytest.raises(RequestError, match="6 of these patients"):
        refuse_seen_patients(trained[1], [f"patient {n}" for n in range(6)])


def test_the_epoch_kept_is_the_one_of_least_validation_loss(trained: tuple[Path, dict]) -> None:
    metrics = json.loads((trained[0] / "metrics.json").read_text())
    best = min(metrics["epochs"], key=lambda epoch: epoch["loss"])
    assert metrics["best_epoch"] == best["epoch"] == trained[1]["figures"]["epoch"]
    assert {"fact_f1", "fact_f1_graded", "train_loss"} <= set(best)


def test_the_adapter_on_disk_says_what_was_validated(tiny_folder: Path, tmp_path: Path, make_table: Make) -> None:
    """The last epoch is made a bad one: were it kept, or the adapter put on twice, the figures would not return."""
    table = make_table(40, patients=5)
    settings = QUICK.model_copy(update={"epochs": 4, "lr": 0.05, "schedule": "constant"})
    record = finetune_captioner(table, model=tiny_folder, out=tmp_path / "out", settings=settings, device="cpu")
    from wsikit.training.captioner.patients import patient_id

    rows = [i for i, name in enumerate(table.patients) if patient_id(name or "") in record["patients"]["validated"]]
    said = load_vlm(tiny_folder, adapter=tmp_path / "out", device="cpu").describe(table.images(rows))
    references = [table.captions[row] or "" for row in rows]
    assert fact_f1(references, said).f1 == pytest.approx(record["figures"]["fact_f1"])
    assert fact_f1(references, said, graded=True).f1 == pytest.approx(record["figures"]["fact_f1_graded"])


def test_saved_loaded_and_merged_it_says_the_same(
    tiny_folder: Path, trained: tuple[Path, dict], make_table: Make, tmp_path: Path
) -> None:
    images = make_table(48).images(range(12))
    adapted = load_vlm(tiny_folder, adapter=trained[0], device="cpu")
    bare = load_vlm(tiny_folder, device="cpu", image_px=56, max_new_tokens=12)
    folded = load_vlm(tiny_folder, adapter=trained[0], device="cpu", merge=True)
    own = load_vlm(merge_adapter(tiny_folder, trained[0], tmp_path / "merged"), device="cpu")
    said = adapted.describe(images)
    assert said != bare.describe(images)
    assert folded.describe(images) == said
    assert own.describe(images) == said
    assert own.chat.prompt == adapted.chat.prompt


def test_captioning_asks_as_training_did(tiny_folder: Path, trained: tuple[Path, dict]) -> None:
    captioner = load_vlm(tiny_folder, adapter=trained[0], device="cpu")
    asked = trained[1]["chat"]
    assert (captioner.chat.prompt, captioner.chat.image_px) == (asked["prompt"], asked["image_px"])
    assert captioner.decoding.max_new_tokens == asked["max_new_tokens"]


def test_nothing_is_overwritten_and_no_other_request_continued(
    tiny_folder: Path, trained: tuple[Path, dict], make_table: Make, tmp_path: Path
) -> None:
    with pytest.raises(RequestError, match="already holds a finished adapter"):
        finetune_captioner(make_table(48), model=tiny_folder, out=trained[0], settings=QUICK, device="cpu")
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(RequestError, match="not empty"):
        finetune_captioner(make_table(48), model=tiny_folder, out=tmp_path, settings=QUICK, device="cpu")
    begun = tmp_path / "begun" / "training"
    begun.mkdir(parents=True)
    (begun / "request.json").write_text("{}")
    with pytest.raises(RequestError, match="another unfinished fine-tuning"):
        finetune_captioner(make_table(48), model=tiny_folder, out=begun.parent, settings=QUICK, device="cpu")


def _weights(out: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(out / "adapter" / ADAPTER_WEIGHTS)


@pytest.fixture
def csv_and_images(tmp_path: Path, make_table: Make) -> tuple[Path, Path]:
    table = make_table(32)
    folder = tmp_path / "images"
    folder.mkdir()
    for file, image in zip(table.files, table.images(range(32))):
        Image.fromarray(image).save(folder / file)
    with open(tmp_path / "table.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["file_name", "description", "class", "patient"])
        writer.writerows(zip(table.files, table.captions, table.classes, table.patients))
    return tmp_path / "table.csv", folder


def test_killed_in_mid_training_it_goes_on_to_the_same_adapter(
    tiny_folder: Path, csv_and_images: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    epochs = ["--epochs", "3"]
    settings = tmp_path / "settings.yaml"
    settings.write_text("image_px: 56\nrank: 8\nbatch: 4\naccumulate: 2\nlr: 0.005\nmax_new_tokens: 12\nturns: true\n")

    def arguments(out: str) -> list[str]:
        table, images = map(str, csv_and_images)
        where = ["--images", images, "--model", str(tiny_folder), "-o", str(tmp_path / out), "--device", "cpu"]
        return [table, *where, "--config", str(settings), *epochs]

    cut = tmp_path / "cut"
    program = "from wsikit.cli.main import main; main()"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", program, "finetune-captioner", *arguments("cut")],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    while process.poll() is None and not list(cut.glob("training/checkpoint-*/trainer_state.json")):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors.decode()
    assert not (cut / "wsikit.json").exists()

    whole = CliRunner().invoke(command, arguments("whole"), catch_exceptions=False)
    with caplog.at_level(logging.INFO, logger="wsikit.training.captioner.trainer"):
        resumed = CliRunner().invoke(command, arguments("cut"), catch_exceptions=False)
    assert "resuming from checkpoint-" in caplog.text
    assert whole.exit_code == resumed.exit_code == 0
    one, other = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("whole", "cut"))
    assert len(one["epochs"]) == len(other["epochs"]) == 3
    assert one["best_epoch"] == other["best_epoch"]
    for name, value in _weights(tmp_path / "whole").items():
        assert torch.allclose(value, _weights(cut)[name], atol=1e-5), name
    assert not (cut / "training").exists()


def test_a_checkpoint_cut_in_half_is_not_gone_on_from(tmp_path: Path) -> None:
    from wsikit.training.captioner.trainer import last_checkpoint

    for step, state in ((9, "{}"), (10, '{"epoch": 1'), (11, None)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        if state is not None:
            (folder / "trainer_state.json").write_text(state)
    found = last_checkpoint(tmp_path)
    assert found is not None
    assert found.name == "checkpoint-9"


@pytest.fixture(scope="module")
def out_of_fold(
    tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory, make_table: Make
) -> tuple[Path, list[dict[str, str]], ImageTable]:
    table = make_table(24, captions=("Undifferentiated, abundant blood.", "No blood.", "Scant neuropil."))
    settings = QUICK.model_copy(update={"epochs": 1})
    out = tmp_path_factory.mktemp("folds")
    path = out_of_fold_captions(table, 3, model=tiny_folder, out=out, settings=settings, device="cpu")
    with open(path, encoding="utf-8", newline="") as file:
        return out, list(csv.DictReader(file)), table


def test_each_caption_comes_from_an_adapter_that_never_saw_the_patient(
    out_of_fold: tuple[Path, list[dict[str, str]], ImageTable],
) -> None:
    out, rows, table = out_of_fold
    assert sorted(row["file_name"] for row in rows) == sorted(table.files)
    patients = dict(zip(table.files, table.patients))
    records = {fold: json.loads((out / f"fold-{fold}" / "wsikit.json").read_text()) for fold in range(3)}
    for row in rows:
        assert row["patient"] == patients[row["file_name"]]
        record = records[int(row["fold"])]
        assert row["adapter"] == record["adapter"][:12]
        refuse_seen_patients(record, [row["patient"]])
    assert len({record["adapter"] for record in records.values()}) == 3


def test_out_of_fold_captions_are_those_of_the_folds_own_adapter(
    out_of_fold: tuple[Path, list[dict[str, str]], ImageTable], tiny_folder: Path
) -> None:
    out, rows, table = out_of_fold
    fold = [row for row in rows if row["fold"] == "1"]
    images = table.images([table.files.index(row["file_name"]) for row in fold])
    said = load_vlm(tiny_folder, adapter=out / "fold-1", device="cpu").describe(images)
    assert [row["description"] for row in fold] == said


def test_the_class_goes_along_and_the_reference_does_not_name_it(
    out_of_fold: tuple[Path, list[dict[str, str]], ImageTable],
) -> None:
    rows = out_of_fold[1]
    assert {row["class"] for row in rows} == {"PD"}
    assert not any("ndifferentiated" in row["reference"] for row in rows)


def test_finished_folds_are_kept(out_of_fold: tuple[Path, list[dict[str, str]], ImageTable], tiny_folder: Path) -> None:
    out, rows, table = out_of_fold
    before = (out / "captions.csv").read_bytes(), (out / "fold-0" / "wsikit.json").stat().st_mtime_ns
    (out / "captions.csv").unlink()
    settings = QUICK.model_copy(update={"epochs": 1})
    out_of_fold_captions(table, 3, model=tiny_folder, out=out, settings=settings, device="cpu")
    assert ((out / "captions.csv").read_bytes(), (out / "fold-0" / "wsikit.json").stat().st_mtime_ns) == before
    with pytest.raises(RequestError, match="belongs to another request"):
        out_of_fold_captions(table, 3, model=tiny_folder, out=out, settings=QUICK, device="cpu")


def test_a_misspelt_setting_is_named_before_anything_starts(tmp_path: Path) -> None:
    config = tmp_path / "settings.yaml"
    config.write_text("epoch: 3\n")
    with pytest.raises(RequestError, match="epoch: no such setting, did you mean epochs"):
        CliRunner().invoke(
            command,
            ["t.csv", "--images", "i", "--model", "m", "-o", "o", "--config", str(config)],
            catch_exceptions=False,
        )


def test_the_reference_configuration_is_valid_and_mmlnbs() -> None:
    import yaml

    path = Path(__file__).parents[3] / "pipelines" / "configs" / "finetune_qwen2_5_vl.yaml"
    settings = FinetuneSettings.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    expected: dict[str, Any] = {"rank": 64, "alpha": 16, "dropout": 0.05, "epochs": 5, "lr": 1e-4, "batch": 4}
    assert expected | {"accumulate": 4} == {name: getattr(settings, name) for name in (*expected, "accumulate")}
    assert np.isclose(settings.alpha / settings.rank, 0.25)
