"""Completion of the command line, by the shell itself where it is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from wsikit.cli.main import VERBS

# what the Tab key does, after the script was read: the completions of the words so far
_TAB = """
PATH="{folder}:$PATH"
eval "$(wsikit completion bash)"
COMP_WORDS=({words})
COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
_wsikit_completion wsikit
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


def press_tab(folder: Path, *words: str) -> list[str]:
    script = folder / "wsikit"
    script.write_text(f"#!{sys.executable}\nfrom wsikit.cli.main import main\nmain()\n")
    script.chmod(0o755)
    text = _TAB.format(folder=folder, words=" ".join(f"'{word}'" for word in words))
    environment = {**os.environ, "PYTHONPATH": ":".join(filter(None, sys.path))}
    done = subprocess.run(["bash", "-c", text], capture_output=True, text=True, env=environment, timeout=120)
    return done.stdout.split()


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("wsikit", "do"), ["doctor"]),
        (("wsikit", "run", "--vote-met"), ["--vote-method"]),
        (("wsikit", "completion", ""), ["bash", "zsh", "fish"]),
    ],
)
def test_verbs_options_and_values_are_completed_in_bash(
    words: tuple[str, ...], expected: list[str], tmp_path: Path
) -> None:
    assert press_tab(tmp_path, *words) == expected


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
def test_all_verbs_are_offered(tmp_path: Path) -> None:
    assert press_tab(tmp_path, "wsikit", "") == list(VERBS)
