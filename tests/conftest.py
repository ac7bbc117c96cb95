"""Fixtures that several test folders share. Real slides are read from WSIKIT_DATA or ../shared/data."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of real slides, patches and tables; the test is skipped where it is absent."""
    folder = Path(os.environ.get("WSIKIT_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real data not found at {folder}; set WSIKIT_DATA to its folder")
    return folder


@pytest.fixture(scope="session")
def slides_dir(data_dir: Path) -> Path:
    """Folder of real slides."""
    return data_dir / "slides"
