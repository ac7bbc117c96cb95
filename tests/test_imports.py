"""The import of wsikit and the help of a verb load no heavy package."""

from __future__ import annotations

import subprocess
import sys

import pytest

import wsikit

HEAVY = {
    "torch", "transformers", "timm", "zarr", "dask", "distributed", "pandas", "scipy", "skimage", "sklearn",
    "matplotlib", "openslide", "tiffslide", "tifffile", "imagecodecs", "shapely", "pydantic", "numpy", "rich", "h5py",
    "PIL",
}  # fmt: skip


def loaded_after(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint('|'.join(sorted({{name.split('.')[0] for name in sys.modules}})))"
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    return set(output.strip().splitlines()[-1].split("|"))


@pytest.mark.parametrize(
    "code",
    [
        "import wsikit",
        "import wsikit.cli.main",
        "from wsikit.cli.main import cli\ncli.main(['--help'], standalone_mode=False)",
        "from wsikit.cli.main import cli\ncli.main(['run', '--help'], standalone_mode=False)",
    ],
)
def test_import_and_help_load_nothing_heavy(code: str) -> None:
    assert loaded_after(code) & HEAVY == set()


def test_python_dash_m_is_the_command_line() -> None:
    found = subprocess.run([sys.executable, "-m", "wsikit", "--version"], capture_output=True, text=True, check=True)
    assert found.stdout == f"wsikit, version {wsikit.__version__}\n"


def test_every_verb_has_a_light_module_with_a_command() -> None:
    from wsikit.cli.main import VERBS, module_of

    modules = [module_of(verb) for verb in VERBS]
    verbs = "\n".join(f"import wsikit.cli.{name}; wsikit.cli.{name}.command.name" for name in modules)
    assert loaded_after(verbs) & (HEAVY - {"numpy"}) == set()


def test_every_public_name_can_be_fetched() -> None:
    for name in wsikit.__all__:
        assert getattr(wsikit, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = wsikit.nothing_like_it
