"""`wsikit run` and an export, killed at any moment: the same command ends with the results of one never killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

KILLS = int(os.environ.get("WSIKIT_KILLS", "12"))
"""docs/reliability.md states the result of a longer run: killed_runs.py FOLDER 120 1."""
SECONDS = 60 * KILLS
"""Each kill has two runs of some 4 s on an idle core; more where other programs use the cores too."""


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 60)
@pytest.mark.skipif(sys.platform == "win32", reason="needs fork and SIGKILL")
def test_a_run_killed_at_any_moment_ends_with_equal_results_and_nothing_left_over(tmp_path: Path) -> None:
    script = Path(__file__).with_name("killed_runs.py")
    arguments = [str(tmp_path), str(KILLS), "1"]
    done = subprocess.run([sys.executable, str(script), *arguments], capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["wrong"] == []
    assert said["killed"] >= KILLS
    assert len(said["at"]) >= 3, "killed in different stages"
