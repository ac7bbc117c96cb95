"""An export to a full disk: one line that names the file, nothing left over, and what was there stays."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from wsikit.cli.main import main
from wsikit.slides.store import SlideStore


@pytest.fixture
def no_room() -> Iterator[None]:
    """The system refuses to write files larger than 300 bytes, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("kind", ["csv", "parquet", "tiff"])
def test_an_export_to_a_full_disk_is_one_line_and_keeps_what_was_there(
    square_store: SlideStore,
    tmp_path: Path,
    kind: str,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
):
    folder = tmp_path / "exported"
    folder.mkdir()
    out = folder / "file"
    out.write_bytes(b"before")
    arguments = ["export", str(square_store.folder), "--to", kind, "-o", str(out)]
    request.getfixturevalue("no_room")
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    said = capsys.readouterr().err
    assert ended.value.code in (1, 2)
    assert said.count("\n") == 1
    assert str(out) in said
    assert ".partial" not in said
    assert list(folder.iterdir()) == [out]
    assert out.read_bytes() == b"before"
