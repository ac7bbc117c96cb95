"""Fact names and the scrubber lie below captions, models and voting: pure data and text, no heavy import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import wsikit

BLOCK = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in sys.stdlib_module_names and top not in {allowed}:
            raise ModuleNotFoundError(f"blocked: {{name}}", name=name)
sys.meta_path.insert(0, Block())
"""
EVERY_MODULE_OF_VOTING = """
import importlib, pkgutil
import wsikit.voting
for module in pkgutil.walk_packages(wsikit.voting.__path__, "wsikit.voting."):
    importlib.import_module(module.name)
print(*sys.modules)
"""


def loaded_with_only(allowed: set[str], code: str) -> set[str]:
    """Names of the modules in memory after `code`, in a process where nothing but `allowed` can be imported."""
    script = BLOCK.format(allowed=allowed) + code
    return set(
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    )


def test_facts_and_the_scrubber_need_the_standard_library_only() -> None:
    loaded = loaded_with_only({"wsikit"}, "import wsikit.facts, wsikit.scrub; print(*sys.modules)")
    assert {"wsikit.facts", "wsikit.scrub"} <= loaded


def test_voting_imports_numpy_and_the_ground_floor_only() -> None:
    loaded = loaded_with_only({"wsikit", "numpy"}, EVERY_MODULE_OF_VOTING)
    rooms = {name.split(".")[1] for name in loaded if name.startswith("wsikit.")}
    assert rooms <= {"voting", "facts", "errors", "geometry", "ordinal", "partition", "_lazy", "_version"}


@pytest.mark.parametrize("room", ["models", "voting"])
def test_models_and_voting_do_not_import_captions(room: str) -> None:
    for path in (Path(wsikit.__file__).parent / room).rglob("*.py"):
        assert "wsikit.captions" not in path.read_text(encoding="utf-8"), path


def test_a_function_of_the_package_is_not_hidden_by_a_module_of_its_name() -> None:
    import wsikit.captions

    for name in wsikit.captions.__all__:
        assert not isinstance(getattr(wsikit.captions, name), type(sys)), name
