"""The documentation site: built without a warning, with every page and every public name."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import wsikit

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "docs" / "site" / "build.py"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    built = subprocess.run([sys.executable, str(BUILD), str(out)], capture_output=True, text=True, timeout=600)
    assert (built.returncode, built.stderr.strip()) == (0, "")
    return out


def test_the_site_is_built_without_a_warning_and_has_a_page_for_each_document(site: Path) -> None:
    documents = [path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md")]
    documents = [path for path in documents if path.parts[0] != "site" and path.name != "README.md"]
    assert len(documents) > 40
    assert [str(path) for path in documents if not (site / path.with_suffix(".html")).is_file()] == []


def test_nothing_of_the_site_is_fetched_from_elsewhere(site: Path) -> None:
    page = (site / "index.html").read_text(encoding="utf-8")
    assert 'src="http' not in page
    assert '<link rel="stylesheet" type="text/css" href="http' not in page


def test_every_public_name_is_on_one_page_of_the_reference() -> None:
    scope: dict[str, Any] = runpy.run_path(str(BUILD))
    shown = [name for _, names in scope["REFERENCE"].values() for name in names.split()]
    assert sorted(shown) == sorted(set(wsikit.__all__) - {"__version__"})


def test_links_lead_to_pages_and_files_that_are_none_are_named() -> None:
    linked = runpy.run_path(str(BUILD))["_linked"]
    assert linked("[a](../benchmarks/README.md#x)", "docs/run.md", "run.md") == "[a](benchmarks.md#x)"
    assert linked("[a](docs/run.md)", "README.md", "start.md") == "[a](run.md)"
    assert linked("[`setup.cfg`](setup.cfg) [b](setup.cfg)", "README.md", "start.md") == "`setup.cfg` b (`setup.cfg`)"
    assert linked("```\n[a](docs/run.md)\n```", "README.md", "start.md") == "```\n[a](docs/run.md)\n```"
