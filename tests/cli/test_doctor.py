"""What `wsikit doctor` says of an installation, whole and with parts missing."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path

import pytest
import torch  # noqa: F401 - asks metadata for versions once, and must not be told those that tests make up
from click.testing import CliRunner, Result

from wsikit.cli import doctor


def run(*arguments: str) -> Result:
    return CliRunner().invoke(doctor.command, list(arguments), standalone_mode=False)


@pytest.fixture
def few_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two packages are required, and the model is taken for fine: what remains is quick."""
    monkeypatch.setattr(doctor, "own_requirements", lambda: ["numpy>=2.0", "zarr>=3.1"])
    monkeypatch.setattr(doctor, "check_model", lambda: doctor.Check("models", "packaged model", True, True, "fine"))
    monkeypatch.setattr(doctor, "check_captioner", lambda: doctor.Check("models", "captioner", True, True, "fine"))


def test_this_installation_is_examined_from_python_to_the_packaged_model() -> None:
    result = run("--json")
    record = json.loads(result.stdout)
    found = {check["name"]: check for check in record["checks"]}
    assert record["ok"] == (result.return_value == 0)
    assert found["numpy"]["found"] == metadata.version("numpy")
    assert {"Python", "wsikit", "tiff", "openslide", "JPEG 2000", "JPEG in Zarr", "GPU", "free"} <= set(found)
    assert {"captioner", "packaged model"} <= set(found)
    broken = [
        check["name"] for check in record["checks"] if check["group"] in ("readers", "codecs") and not check["ok"]
    ]
    assert broken == []


def test_all_is_well_ends_with_status_0(few_packages: None, tmp_path: Path) -> None:
    result = run("--folder", str(tmp_path))
    assert result.return_value == 0
    assert "wsikit run can run here" in result.stdout
    assert "pip install" not in result.stdout


def test_a_missing_package_is_named_with_the_line_that_installs_it(
    few_packages: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "own_requirements", lambda: ["numpy>=2.0", "no-such-package>=1.2"])
    result = run()
    assert result.return_value == 1
    assert 'pip install "no-such-package>=1.2"' in result.stdout
    assert "missing: no-such-package" in result.stdout
    assert json.loads(run("--json").stdout)["pip"] == 'pip install "no-such-package>=1.2"'


def test_a_package_that_is_too_old_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", lambda name: "1.26.4")
    check = doctor.check_requirement("numpy>=2.0")
    assert (check.ok, check.needed) == (False, True)
    assert check.found == "1.26.4, older than 2.0"
    assert check.fix == 'pip install --upgrade "numpy>=2.0"'


def test_a_package_that_cannot_be_imported_counts_as_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(doctor.IMPORTED_AS, "numpy", "no_such_module")
    check = doctor.check_requirement("numpy>=2.0")
    assert not check.ok
    assert "no_such_module" in check.found


def test_the_main_job_runs_without_what_only_other_verbs_need(
    few_packages: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(name: str) -> str:
        if name == "h5py":
            raise metadata.PackageNotFoundError(name)
        return "99"

    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr(doctor, "own_requirements", lambda: ["h5py>=3.10"])
    result = run()
    assert result.return_value == 0
    assert "HDF5" in result.stdout
    assert 'pip install "h5py>=3.10"' in result.stdout


@pytest.mark.parametrize(
    ("version", "least", "enough"),
    [("2026.3.6", "2024.9", True), ("2.10.0", "2.9", True), ("2.4.0+cpu", "2.4", True), ("4.0.0", "4.0.0.6", False)],
)
def test_versions_are_compared_as_numbers(
    monkeypatch: pytest.MonkeyPatch, version: str, least: str, enough: bool
) -> None:
    monkeypatch.setattr(metadata, "version", lambda name: version)
    assert doctor.check_requirement(f"numpy>={least}").ok == enough


def test_a_folder_that_cannot_be_written_to_stops_the_main_job(few_packages: None, tmp_path: Path) -> None:
    occupied = tmp_path / "file"
    occupied.write_text("not a folder")
    result = run("--folder", str(occupied))
    assert result.return_value == 1
    assert "missing: writable" in result.stdout


def test_a_folder_that_is_yet_to_be_made_is_judged_by_the_one_above(tmp_path: Path) -> None:
    written, free = doctor.check_disk(str(tmp_path / "not" / "yet"))
    assert written.ok
    assert written.found == str(tmp_path)
    assert free.ok


def test_a_codec_that_does_not_decode_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    import imagecodecs

    monkeypatch.setattr(imagecodecs, "webp_decode", lambda data: 1 / 0)
    found = {check.name: check for check in doctor.check_codecs()}
    assert [name for name, check in found.items() if not check.ok] == ["WebP"]
    assert not found["WebP"].needed


def test_a_missing_gpu_does_not_stop_the_main_job() -> None:
    assert [check.needed for check in doctor.check_devices()] == [False, False]


def test_a_gpu_is_named_with_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:

    class Card:
        name, total_memory = "Some GPU", 80 * 2**30

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: Card)
    _, gpu = doctor.check_devices()
    assert (gpu.ok, gpu.found) == (True, "Some GPU, 80 GiB, Some GPU, 80 GiB")


def test_a_driver_without_a_gpu_in_torch_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    _, gpu = doctor.check_devices()
    assert not gpu.ok
    assert "sees no GPU" in gpu.found
