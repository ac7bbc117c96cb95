"""No network at import and in a run: every way out of the process and of its children is blocked, and none is tried."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from wsikit.phantom import make_phantom

BLOCK = '''
import os, socket

def _refuse(name):
    def refuse(*arguments, **options):
        with open(os.environ["WSIKIT_TEST_ATTEMPTS"], "a") as file:
            file.write(f"{name} {arguments[1:]!r}\\n")
        raise OSError(f"{name}: the network is blocked in this test")
    return refuse

class _Socket(socket.socket):
    """Only sockets of the file system, as between processes of this machine, are connected."""

for _name in ("connect", "connect_ex", "sendto"):
    def _method(self, *arguments, _name=_name, _plain=getattr(socket.socket, _name), _no=_refuse(_name)):
        return _plain(self, *arguments) if self.family == socket.AF_UNIX else _no(self, *arguments)
    setattr(_Socket, _name, _method)
socket.socket = _Socket
for _name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex", "create_connection"):
    setattr(socket, _name, _refuse(_name))
'''

IMPORT_ALL = """
import importlib, pkgutil, sys
import wsikit
count = 0
for found in pkgutil.walk_packages(wsikit.__path__, "wsikit."):
    if not found.name.endswith("__main__"):
        importlib.import_module(found.name)
        count += 1
print(count)
"""


@pytest.fixture
def blocked(tmp_path: Path) -> dict[str, str]:
    """The environment of a process that has no network, and whose children have none."""
    place = tmp_path / "blocked"
    place.mkdir()
    (place / "sitecustomize.py").write_text(BLOCK)
    root = str(Path(__file__).parents[1])
    attempts = tmp_path / "attempts.txt"
    attempts.touch()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    paths = [str(place), root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {
        **kept,
        "PYTHONPATH": os.pathsep.join(paths),
        "WSIKIT_TEST_ATTEMPTS": str(attempts),
        "HF_HOME": str(tmp_path / "empty"),
        "OMP_NUM_THREADS": "1",
    }


def python(blocked: dict[str, str], *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], env=blocked, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def attempts(blocked: dict[str, str]) -> str:
    return Path(blocked["WSIKIT_TEST_ATTEMPTS"]).read_text()


def test_the_block_reaches_the_children_of_a_process(blocked: dict[str, str]):
    """Otherwise the tests below would show nothing."""
    child = "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9', timeout=1)"
    parent = f"import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-c', {child!r}]) != 1)"
    python(blocked, "-c", parent)
    assert "create_connection" in attempts(blocked)


@pytest.mark.slow
def test_no_module_asks_the_network_when_it_is_imported(blocked: dict[str, str]):
    assert int(python(blocked, "-c", IMPORT_ALL)) > 500
    assert attempts(blocked) == ""


@pytest.mark.slow
def test_a_whole_run_needs_no_network(blocked: dict[str, str], tmp_path: Path):
    slide = tmp_path / "slides" / "p.tiff"
    slide.parent.mkdir()
    make_phantom(slide, size_px=(700, 600), subtype="PD", seed=1)
    wsikit = ("-m", "wsikit.cli.main")
    shown = python(
        blocked, *wsikit, "run", slide.parent, "-o", tmp_path / "out", "--features", "phantom-afloc", "--workers", 2
    )
    assert "p" in shown
    assert (tmp_path / "out" / "index.html").is_file()
    for kind in ("geojson", "csv", "ome-tiff"):
        python(blocked, *wsikit, "export", tmp_path / "out" / "slides" / "p.zarr", "--to", kind, "-o", tmp_path / kind)
    assert attempts(blocked) == ""
