"""`wsikit doctor` on a complete installation, with missing parts, and with plug-ins."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path

import pytest
import torch  # noqa: F401 - reads versions from metadata at its import, before a test replaces them
from click.testing import CliRunner, Result
from PIL import Image

from wsikit.cli import doctor, doctor_machine

MAY_BE_ABSENT = ("extras", "devices")
"""What this computer may be without."""


def run(*arguments: str) -> Result:
    return CliRunner().invoke(doctor.command, list(arguments), standalone_mode=False)


@pytest.fixture
def few_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only two packages are required, and the model is not loaded: the other checks are quick."""
    monkeypatch.setattr(doctor, "own_requirements", lambda: ["numpy>=2.0", "zarr>=3.1"])
    monkeypatch.setattr(doctor, "check_model", lambda: doctor.Check("models", "packaged model", True, True, "fine"))
    monkeypatch.setattr(doctor, "check_captioner", lambda: doctor.Check("models", "captioner", True, True, "fine"))


def test_all_parts_of_this_installation_are_checked() -> None:
    result = run("--json")
    record = json.loads(result.stdout)
    found = {check["name"]: check for check in record["checks"]}
    assert record["ok"] == (result.return_value == 0)
    assert found["numpy"]["found"] == metadata.version("numpy")
    assert {"Python", "wsikit", "tiff", "openslide", "JPEG 2000", "JPEG in Zarr", "GPU", "free"} <= set(found)
    assert {"captioner", "packaged model"} <= set(found)
    assert {"memory", "locks", "writable", "encoders here"} <= set(found)
    wrong = [check["name"] for check in record["checks"] if not check["ok"] and check["group"] not in MAY_BE_ABSENT]
    assert wrong == [], "the tests run in a complete installation, so that every finding is a false one"
    assert record["ok"]


def test_a_complete_installation_ends_with_status_0(few_packages: None, tmp_path: Path) -> None:
    result = run("--folder", str(tmp_path))
    assert result.return_value == 0
    assert "wsikit run can run here" in result.stdout
    assert "To install what is missing" not in result.stdout


def test_a_missing_package_is_reported_with_the_command_that_installs_it(
    few_packages: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "own_requirements", lambda: ["numpy>=2.0", "no-such-package>=1.2"])
    result = run()
    assert result.return_value == 1
    assert 'pip install "no-such-package>=1.2"' in result.stdout
    assert "missing: no-such-package" in result.stdout
    assert json.loads(run("--json").stdout)["pip"] == 'pip install "no-such-package>=1.2"'


def test_a_package_that_is_too_old_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_the_main_job_runs_without_packages_that_only_other_verbs_need(
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


def test_a_folder_that_does_not_exist_is_tested_by_the_folder_above_it(tmp_path: Path) -> None:
    written, _, free = doctor_machine.check_folder(str(tmp_path / "not" / "yet"))
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
    assert not any(check.needed for check in doctor_machine.check_devices())


def test_a_gpu_is_named_with_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:

    class Card:
        name, total_memory = "Some GPU", 80 * 2**30

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: Card)
    (gpu,) = [check for check in doctor_machine.check_devices() if check.name == "GPU"]
    assert (gpu.ok, gpu.found) == (True, "Some GPU, 80 GiB, Some GPU, 80 GiB")


def test_a_driver_without_a_gpu_in_torch_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    (gpu,) = [check for check in doctor_machine.check_devices() if check.name == "GPU"]
    assert not gpu.ok
    assert "sees no GPU" in gpu.found


def install(folder: Path, name: str, module: str, entry_points: str) -> None:
    """Make `folder` a place on sys.path with an installed distribution: its module and its metadata."""
    info = folder / f"{name.replace('-', '_')}-0.1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text(entry_points)
    (folder / f"{name.replace('-', '_')}.py").write_text(module)


def test_a_working_plugin_is_listed_and_a_broken_one_is_a_failed_check_with_its_error(
    few_packages: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path / "a", "toy-good", "def write(): ...\n", "[wsikit.exporters]\ntoy-text = toy_good:write\n")
    install(
        tmp_path / "b",
        "toy-bad",
        "import no_such_library\n",
        "[wsikit.captioners]\ntoy-captioner = toy_bad:Captioner\n",
    )
    for folder in ("a", "b"):
        monkeypatch.syspath_prepend(str(tmp_path / folder))

    found = {check["name"]: check for check in json.loads(run("--json").stdout)["checks"]}
    assert found["exporters"]["ok"]
    assert "toy-text" in found["exporters"]["found"]
    assert "toy-captioner" not in found["captioners"]["found"]
    broken = found["captioners: toy-captioner"]
    assert (broken["ok"], broken["needed"]) == (False, False)
    assert "toy-bad 0.1" in broken["found"]
    assert "No module named 'no_such_library'" in broken["found"]
    assert "pip uninstall toy-bad" in broken["fix"]

    shown = run()
    assert shown.return_value == 0, "a broken plug-in does not stop the main job"
    assert "broken" in shown.stdout


def test_a_slide_is_read_on_every_level_and_one_that_cannot_be_used_fails(
    few_packages: None, slide_path: Path, tmp_path: Path
) -> None:
    text = tmp_path / "notes.svs"
    text.write_text("not a slide")
    picture = tmp_path / "picture.png"
    Image.new("RGB", (300, 200), "pink").save(picture)
    shown = run(str(slide_path), str(text), str(picture), "--folder", str(tmp_path), "--json")
    assert shown.return_value == 1
    record = json.loads(shown.stdout)
    assert record["ok"], "the installation is fine"
    found = {check["name"]: check for check in record["checks"] if check["group"] == "slides"}
    assert [found[name]["ok"] for name in (slide_path.name, "notes.svs", "picture.png")] == [True, False, False]
    assert "µm/px" in found[slide_path.name]["found"]
    assert "has no pixel size" in found["picture.png"]["found"]
    assert run(str(slide_path), "--folder", str(tmp_path)).return_value == 0


def test_a_slide_with_a_level_that_cannot_be_read_fails(few_packages: None, slide_path: Path, tmp_path: Path) -> None:
    data = slide_path.read_bytes()
    cut = tmp_path / "cut.svs"
    cut.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))
    assert run(str(cut), "--folder", str(tmp_path)).return_value == 1


def test_two_packages_of_opencv_are_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", lambda name: "4.10" if "opencv" in name else "1")
    found = doctor.check_opencv()
    assert not found.ok
    assert "opencv-python 4.10" in found.found
    assert not found.needed


def test_an_extra_without_one_of_its_packages_is_absent_with_the_command_that_adds_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stated = ["numpy>=2", 'here>=1; extra == "both"', 'gone[x]>=1 ; extra == "both"', 'pytest; extra == "test"']
    monkeypatch.setattr(metadata, "requires", lambda name: stated)

    def version(name: str) -> str:
        if name == "gone":
            raise metadata.PackageNotFoundError(name)
        return "1"

    monkeypatch.setattr(metadata, "version", version)
    (extra,) = doctor.check_extras()
    assert (extra.name, extra.ok, extra.found) == ("both", False, "without gone")
    assert "wsikit[both]" in extra.fix


def test_a_folder_without_locks_stops_the_main_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("filelock.FileLock.acquire", lambda *_, **__: None)
    found = {check.name: check for check in doctor_machine.check_folder(str(tmp_path))}
    assert not found["locks"].ok
    assert found["locks"].needed
    assert found["writable"].ok


def test_too_little_memory_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsikit.memory.available_memory", lambda: 2_000_000_000)
    found = {check.name: check for check in doctor_machine.check_devices()}
    assert not found["memory"].ok
    assert not found["memory"].needed
    assert "2.0 GB" in found["memory"].found
