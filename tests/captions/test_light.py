"""Measuring needs neither torch nor transformers: they are not imported, and may be absent."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {"torch", "torchvision", "transformers", "peft", "timm", "accelerate", "tokenizers", "openai", "sklearn"}

ABSENT = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {HEAVY!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
"""
USES = {
    "the package": "import wsikit.captions",
    "the registry": "from wsikit.captions.registry import check_captioner, captioner_for, name_of\n"
    "[check_captioner(name) for name in ('morphometry', 'phantom-captioner', 'http://localhost:1/v1')]\n"
    "captioner_for('table'), name_of('a/b')",
    "measuring": "import numpy as np\nfrom wsikit.captions import load_captioner\n"
    "image = np.random.default_rng(0).integers(90, 250, (4, 96, 96, 3), dtype=np.uint8)\n"
    "for mpp in (0.25, 0.5, 0.8, 4.0): assert load_captioner('morphometry').caption(image, mpp=mpp)[3].text\n"
    "load_captioner('morphometry-in-slide').fit(image, mpp=4.0).caption(image, mpp=4.0)",
    "filter, cache and search": "import wsikit.captions.cache, wsikit.captions.search\n"
    "from wsikit.captions.filter import judge\njudge('Neuropil.')",
}


def loaded_after(code: str) -> set[str]:
    script = f"{code}\nimport sys\nprint(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("use", USES)
def test_nothing_heavy_is_imported(use: str) -> None:
    assert not HEAVY & loaded_after(USES[use])


@pytest.mark.parametrize("use", USES)
def test_it_works_where_torch_and_transformers_are_absent(use: str) -> None:
    loaded_after(ABSENT + USES[use])
