"""A verb that is stopped from the keyboard ends at once with status 130, also while torch is being loaded."""

from __future__ import annotations

import subprocess
import sys

_STOPPED_WHILE_LOADING = """
import sys, threading, time, types
from wsikit.cli import main as entry

def stop(*_, **__):
    sys.modules["torch"] = types.ModuleType("torch")
    threading.Thread(target=time.sleep, args=(60,)).start()
    raise KeyboardInterrupt

entry.cli.main = stop
entry.main([])
"""


def test_a_model_that_is_being_loaded_is_not_waited_for() -> None:
    ended = subprocess.run([sys.executable, "-c", _STOPPED_WHILE_LOADING], capture_output=True, text=True, timeout=30)
    assert ended.returncode == 130
    assert ended.stderr.startswith("wsikit: stopped.")
    assert len(ended.stderr.splitlines()) == 1
