"""The example packages of examples/plugins announce what they have, and their own tests pass."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import wsikit
from wsikit.plugins import GROUPS

EXAMPLES = Path(__file__).parents[2] / "examples" / "plugins"
PACKAGES = sorted(path.parent for path in EXAMPLES.glob("*/pyproject.toml"))


def points(package: Path) -> dict[str, dict[str, str]]:
    project = tomllib.loads((package / "pyproject.toml").read_text("utf-8"))["project"]
    found: dict[str, dict[str, str]] = project["entry-points"]
    return found


def test_there_is_one_example_of_each_kind_of_plug_in() -> None:
    groups = [group for package in PACKAGES for group in points(package)]
    assert sorted(groups) == sorted(f"wsikit.{group}" for group in GROUPS)


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_an_example_names_an_object_of_its_module(package: Path) -> None:
    for announced in points(package).values():
        for target in announced.values():
            module, name = target.split(":")
            assert f" {name}(" in (package / f"{module}.py").read_text("utf-8").replace(
                f"class {name}:", f"class {name}("
            )


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_the_tests_of_an_example_pass(package: Path, tmp_path: Path) -> None:
    path = os.pathsep.join([str(package), str(Path(wsikit.__file__).parents[1])])
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-c",
        os.devnull,
        "--rootdir",
        str(package),
    ]
    done = subprocess.run(
        [*command, f"--basetemp={tmp_path / 'inner'}", str(package)],
        env=os.environ | {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
