"""`wsikit doctor`: tests what this installation can do, and reports how to install what is missing."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial

import click

NOT_FOR_THE_MAIN_JOB = {
    "distributed": "several machines or processes",
    "h5py": "HDF5 files of other tools",
    "scikit-learn": "training and evaluation",
    "tiffslide": "a second reader",
}
"""Requirements that `wsikit run` does not need, and what they are used for."""

IMPORTED_AS = {
    "openslide-python": "openslide",
    "pillow": "PIL",
    "pyyaml": "yaml",
    "scikit-image": "skimage",
    "scikit-learn": "sklearn",
}
"""Name of the module of a package, where it is not the package's name with underscores."""

CODECS = {
    "JPEG": ("jpeg8", True),
    "JPEG 2000": ("jpeg2k", False),
    "WebP": ("webp", False),
    "LZW": ("lzw", False),
    "Deflate": ("zlib", False),
    "Zstandard": ("zstd", True),
}
"""Name in imagecodecs, and whether `wsikit run` needs it for every slide."""

LEAST_FREE_GB = 1.0


@dataclass(frozen=True, slots=True)
class Check:
    """The outcome of one test of the installation."""

    group: str
    name: str
    ok: bool
    needed: bool
    """True if the main job, `wsikit run`, does not work without it."""
    found: str
    fix: str = ""
    """What to do about it."""
    pip: str = ""
    """Requirement that installs what is missing, as pip reads it."""


@click.command()
@click.option(
    "--folder",
    default=".",
    type=click.Path(),
    help="Output folder to test: is it writable, how many GB are free? Default: the current folder.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def command(folder: str, as_json: bool) -> int:
    """Check this installation: versions, readers, codecs, plug-ins, GPU, disk, captioner, packaged model.

    Each part is used, not only searched for: packages are imported, codecs decode an image, a file is written to the
    disk. For each missing part the report shows how to install it. A broken plug-in is reported with its error.

    Exit status: 0 the main job (wsikit run) can run, 1 it cannot.
    """
    import json

    checks = list(examine(folder))
    can_run = all(check.ok for check in checks if check.needed)
    if as_json:
        record = {"ok": can_run, "pip": pip_line(checks), "checks": [asdict(check) for check in checks]}
        click.echo(json.dumps(record, indent=1))
    else:
        _show(checks, can_run)
    return 0 if can_run else 1


def examine(folder: str) -> Iterator[Check]:
    """All checks, in the order in which they are shown."""
    yield from check_versions()
    yield from check_readers()
    yield from check_codecs()
    yield from check_plugins()
    yield from check_devices()
    yield from check_disk(folder)
    yield check_captioner()
    yield check_model()


def pip_line(checks: list[Check]) -> str | None:
    """The command that installs all missing packages; None if none is missing."""
    wanted = [f'"{check.pip}"' for check in checks if not check.ok and check.pip]
    return f"pip install {' '.join(wanted)}" if wanted else None


def check_versions() -> Iterator[Check]:
    """Python, wsikit, and the packages that wsikit's metadata require."""
    import platform
    import sys

    from wsikit._version import __version__

    found = f"{platform.python_version()} ({platform.platform(terse=True)}, {platform.machine()})"
    yield Check("versions", "Python", sys.version_info >= (3, 11), True, found, "install Python 3.11 or newer")
    requirements = own_requirements()
    yield Check(
        "versions",
        "wsikit",
        requirements is not None,
        False,
        __version__ if requirements is not None else f"{__version__}, not installed as a package",
        "run `pip install .` in its folder; without it the required packages are unknown",
    )
    for requirement in requirements or []:
        yield check_requirement(requirement)


def own_requirements() -> list[str] | None:
    """Requirements of wsikit without extras, such as "numpy>=2.0"; None if it is not installed as a package."""
    from importlib import metadata

    try:
        stated = metadata.requires("wsikit") or []
    except metadata.PackageNotFoundError:
        return None
    return sorted((line.split(";")[0].strip() for line in stated if "extra ==" not in line), key=str.lower)


def check_requirement(requirement: str) -> Check:
    """Whether a package is installed, recent enough and importable. `requirement`: "name" or "name>=version"."""
    import importlib
    from importlib import metadata

    name, _, least = (part.strip() for part in requirement.partition(">="))
    purpose = NOT_FOR_THE_MAIN_JOB.get(name)

    def finding(ok: bool, found: str, fix: str = "") -> Check:
        found = f"{found} (for {purpose})" if purpose and not ok else found
        return Check("packages", name, ok, purpose is None, found, fix, "" if ok else requirement)

    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return finding(False, "not installed", f'pip install "{requirement}"')
    if least and _numbers(version) < _numbers(least):
        return finding(False, f"{version}, older than {least}", f'pip install --upgrade "{requirement}"')
    try:
        importlib.import_module(IMPORTED_AS.get(name, name.replace("-", "_")))
    except Exception as error:  # any failure of the import is a finding
        return finding(False, f"{version}, but {_one_line(error)}", f'pip install --force-reinstall "{requirement}"')
    return finding(True, version)


def check_readers() -> Iterator[Check]:
    """The readers of slide files that come with wsikit."""
    from wsikit.slides.registry import READERS

    for name in READERS:
        needed = name in ("openslide", "tiff", "store")
        yield _try("readers", name, needed, partial(_load_reader, name), "install the packages reported above")


def _load_reader(name: str) -> str:
    from wsikit.slides.registry import reader_class

    reader_class(name)
    if name != "openslide":
        return "ready"
    import openslide

    return f"ready, library {openslide.__library_version__}"


def check_codecs() -> Iterator[Check]:
    """Codecs of slide files, each by an encode-decode round trip; and the codec that zarr finds by its name."""
    for name, (codec, needed) in CODECS.items():
        attempt = partial(_round_trip, codec)
        yield _try("codecs", name, needed, attempt, "reinstall imagecodecs", "imagecodecs")

    def find_in_zarr() -> str:
        from zarr.registry import get_codec_class

        from wsikit.store.level_format import ZARR_CODECS

        name = ZARR_CODECS["jpeg"]
        found = get_codec_class(name)
        return f"{name}: {found.__module__}.{found.__qualname__}"

    yield _try(
        "codecs",
        "JPEG in Zarr",
        True,
        find_in_zarr,
        "reinstall wsikit: zarr finds this codec by an entry point of the package",
    )


def _round_trip(codec: str) -> str:
    import imagecodecs
    import numpy as np

    picture = np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3)
    encode, decode = getattr(imagecodecs, f"{codec}_encode"), getattr(imagecodecs, f"{codec}_decode")
    if codec in ("lzw", "zlib", "zstd"):
        same = bytes(decode(encode(picture.tobytes()))) == picture.tobytes()
    else:
        same = decode(encode(picture)).shape == picture.shape
    if not same:
        raise ValueError("the decoded data differ from the data that were encoded")
    return "decodes"


def check_plugins() -> Iterator[Check]:
    """The installed plug-ins of each group; each one that cannot be imported is a check of its own that fails."""
    from wsikit.plugins import GROUPS, broken_plugins, plugin_names

    broken = broken_plugins()
    for group in GROUPS:
        failed = {plugin.name for plugin in broken if plugin.group == group}
        working = [name for name in plugin_names(group) if name not in failed]
        yield Check("plug-ins", group, True, False, ", ".join(working) or "none installed")
    for plugin in broken:
        yield Check(
            "plug-ins",
            f"{plugin.group}: {plugin.name}",
            False,
            False,
            f"package {plugin.package} cannot be imported: {_shorten(plugin.reason)}",
            f"reinstall it, or remove it with `pip uninstall {plugin.package.split()[0]}`",
        )


def check_devices() -> Iterator[Check]:
    """CPUs, and the GPU that models run on if there is one. No GPU is needed: models also run on the CPU, slower."""
    from wsikit.executor import available_cpus

    yield Check("devices", "CPU", True, False, f"{available_cpus()} for this process")

    def find_gpu() -> str:
        import shutil

        import torch

        if torch.cuda.is_available():
            devices = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
            return ", ".join(f"{device.name}, {device.total_memory / 2**30:.0f} GiB" for device in devices)
        if torch.backends.mps.is_available():
            return "Apple GPU (mps)"
        if shutil.which("nvidia-smi"):
            raise RuntimeError(f"an NVIDIA driver is installed, but torch {torch.__version__} sees no GPU")
        return "none: models run on the CPU"

    yield _try(
        "devices", "GPU", False, find_gpu, "install a build of torch for CUDA, and test the driver with `nvidia-smi`"
    )


def check_disk(folder: str) -> Iterator[Check]:
    """Whether the folder, or the nearest existing folder above it, is writable, and its free space."""
    import shutil
    import tempfile

    place = os.path.abspath(folder)
    while not os.path.exists(place) and os.path.dirname(place) != place:
        place = os.path.dirname(place)

    def write() -> str:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"wsikit" * 1000)
            file.flush()
            os.fsync(file.fileno())
        return place

    yield _try(
        "disk", "writable", True, write, "choose another folder with --folder, or ask for the permission to write"
    )
    free = shutil.disk_usage(place).free / 1e9
    yield Check("disk", "free", free >= LEAST_FREE_GB, True, f"{free:,.1f} GB", f"free {LEAST_FREE_GB:g} GB or more")


def check_captioner() -> Check:
    """The default captioner, applied to one grey patch."""

    def describe() -> str:
        import numpy as np

        from wsikit.captions import load_captioner

        captioner = load_captioner()
        captioner.caption(np.full((1, 224, 224, 3), 200, np.uint8), mpp=0.5)
        return f"{captioner.name}, {len(captioner.fact_names)} facts"

    return _try("models", "captioner", True, describe, "reinstall wsikit: the captioner is part of the package")


def check_model() -> Check:
    """The packaged model, loaded with its weights."""

    def load() -> str:
        from wsikit.models.config import DEFAULT_MODEL, WEIGHTS_FILE, find_model
        from wsikit.models.io import load_model

        config = load_model(DEFAULT_MODEL).config
        size = os.path.getsize(find_model(DEFAULT_MODEL) / WEIGHTS_FILE) / 1e6
        return f"{config.name} {config.version}, {'/'.join(config.classes)}, {size:.1f} MB"

    return _try("models", "packaged model", True, load, "reinstall wsikit, or use another model with --model DIR")


def _try(group: str, name: str, needed: bool, attempt: Callable[[], str], fix: str, pip: str = "") -> Check:
    """A check that passes with the text that `attempt` returns, and fails with the error that it raises."""
    try:
        return Check(group, name, True, needed, attempt())
    except Exception as error:  # any failure is a finding, and the next check is run
        return Check(group, name, False, needed, _one_line(error), fix, pip)


def _one_line(error: Exception) -> str:
    return _shorten(str(error) or type(error).__name__)


def _shorten(text: str) -> str:
    """`text` in one line of at most 200 characters."""
    text = " ".join(text.split())
    return text if len(text) <= 200 else f"{text[:199]}…"


def _numbers(version: str) -> tuple[int, ...]:
    """(2026, 3, 6) of "2026.3.6rc1+cpu"."""
    return tuple(int(match) for match in re.findall(r"\d+", re.split(r"[^0-9.]", version)[0]))


def _show(checks: list[Check], can_run: bool) -> None:
    """Print the checks as tables."""
    from rich.table import Table
    from rich.text import Text

    from wsikit.cli.console import make_console

    console = make_console()
    for group in dict.fromkeys(check.group for check in checks):
        table = Table(title=group, title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 0))
        for _ in range(3):
            table.add_column(overflow="fold")
        shown = [check for check in checks if check.group == group]
        if group == "packages":
            fine = [check for check in shown if check.ok]
            listed = ", ".join(f"{check.name} {check.found}" for check in fine)
            table.add_row(Text("ok", style="green"), Text(str(len(fine)), style="bold"), Text(listed))
            shown = [check for check in shown if not check.ok]
        for check in shown:
            word, style = _verdict(check)
            found = Text(check.found if check.ok else f"{check.found}\n→ {check.fix}")
            table.add_row(Text(word, style=style), Text(check.name, style="bold"), found)
        console.print(table, "")
    line = pip_line(checks)
    if line:
        console.print("To install what is missing:", line, markup=False, soft_wrap=True)
    if can_run:
        console.print("wsikit run can run here.", style="green")
    else:
        missing = ", ".join(check.name for check in checks if check.needed and not check.ok)
        console.print(f"wsikit run cannot run here; missing: {missing}", style="red", markup=False)


def _verdict(check: Check) -> tuple[str, str]:
    """Word and style of a check's outcome."""
    if check.ok:
        return "ok", "green"
    if check.group == "plug-ins":
        return "broken", "yellow"
    return ("missing", "red") if check.needed else ("absent", "yellow")
