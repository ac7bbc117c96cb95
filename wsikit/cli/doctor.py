"""`wsikit doctor`: tests what this installation can do, and reports how to install what is missing."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING

import click

from wsikit.cli.doctor_check import Check, attempted, one_line, shorten

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

NOT_FOR_THE_MAIN_JOB = {
    "distributed": "several machines or processes",
    "h5py": "HDF5 files of other tools",
    "scikit-learn": "training and evaluation",
    "tiffslide": "a second reader",
}
"""Requirements that `wsikit run` does not need, and what they are used for."""

IMPORTED_AS = {
    "opencv-python-headless": "cv2",
    "openslide-python": "openslide",
    "pillow": "PIL",
    "pyyaml": "yaml",
    "scikit-image": "skimage",
    "scikit-learn": "sklearn",
}
"""Name of the module of a package, where it is not the package's name with underscores."""

FOR_DEVELOPERS = ("docs", "lint", "test")
"""Extras that no user needs."""

CODECS = {
    "JPEG": ("jpeg8", True),
    "JPEG 2000": ("jpeg2k", False),
    "WebP": ("webp", False),
    "LZW": ("lzw", False),
    "Deflate": ("zlib", False),
    "Zstandard": ("zstd", True),
}
"""Name in imagecodecs, and whether `wsikit run` needs it for every slide."""


@click.command()
@click.argument("slides", nargs=-1, metavar="[SLIDE]…", type=click.Path())
@click.option(
    "--folder",
    default=".",
    type=click.Path(),
    help="Output folder to test: is it writable, are there locks, how many GB are free? Default: the current folder.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def command(slides: tuple[str, ...], folder: str, as_json: bool) -> int:
    """Check this installation: versions, readers, codecs, plug-ins, GPU, memory, disk, captioner, packaged model. And
    each SLIDE: does it open, has it a pixel size, can all levels be read?

    Each part is used, not only searched for: packages are imported, codecs decode an image, a file is written to the
    disk. For each missing part the report shows how to install it. A broken plug-in is reported with its error.

    Exit status: 0 the main job (wsikit run) can run, 1 it cannot, or a SLIDE cannot be used.
    """
    import json

    checks = examine(folder, slides)
    if as_json:
        found = list(checks)
        record = {"ok": can_run(found), "pip": pip_line(found), "checks": [asdict(check) for check in found]}
        click.echo(json.dumps(record, indent=1))
    else:
        found = _show(checks)
    return 0 if can_run(found) and all(check.ok for check in found if check.group == "slides") else 1


def can_run(checks: Iterable[Check]) -> bool:
    """Whether the main job can run."""
    return all(check.ok for check in checks if check.needed)


def examine(folder: str, slides: Sequence[str] = ()) -> Iterator[Check]:
    """All checks, in the order in which they are shown. Each is carried out when it is asked for."""
    from wsikit.cli import doctor_machine

    yield from check_versions()
    yield from check_packages()
    yield from check_readers()
    yield from check_codecs()
    yield from check_plugins()
    yield from doctor_machine.check_devices()
    yield from doctor_machine.check_folder(folder)
    yield check_captioner()
    yield check_model()
    yield from doctor_machine.check_weights()
    yield from map(doctor_machine.check_slide, slides)


def pip_line(checks: list[Check]) -> str | None:
    """The command that installs all missing packages; None if none is missing."""
    wanted = [f'"{check.pip}"' for check in checks if not check.ok and check.pip]
    return f"pip install {' '.join(wanted)}" if wanted else None


def check_versions() -> Iterator[Check]:
    """Python and wsikit, and where they are: a second installation is a frequent surprise."""
    import platform
    import sys

    import wsikit
    from wsikit._version import __version__

    found = f"{platform.python_version()} ({platform.platform(terse=True)}, {platform.machine()})"
    yield Check("versions", "Python", sys.version_info >= (3, 11), True, found, "install Python 3.11 or newer")
    yield Check("versions", "environment", True, False, sys.prefix)
    installed = own_requirements() is not None
    yield Check(
        "versions",
        "wsikit",
        installed,
        False,
        f"{__version__}{'' if installed else ', not installed as a package'} ({os.path.dirname(wsikit.__file__)})",
        "run `pip install .` in its folder; without it the required packages are unknown",
    )


def check_packages() -> Iterator[Check]:
    """The packages that wsikit's metadata require, those of its extras, and OpenCV, of which there must be one."""
    for requirement in own_requirements() or []:
        yield check_requirement(requirement)
    yield check_opencv()
    yield from check_extras()


def check_opencv() -> Check:
    """Several OpenCV packages overwrite each other's files."""
    from importlib import metadata

    names = ["opencv-python", "opencv-contrib-python", "opencv-python-headless", "opencv-contrib-python-headless"]
    here = []
    for name in names:
        with contextlib.suppress(metadata.PackageNotFoundError):
            here.append(f"{name} {metadata.version(name)}")
    fix = "keep one of them, as removing one deletes files of the others: docs/installing.md"
    return Check("packages", "OpenCV", len(here) < 2, False, ", ".join(here) or "none", fix)


def check_extras() -> Iterator[Check]:
    """What can be installed in addition, and whether it is: no part of the main job."""
    from importlib import metadata

    for extra, names in extra_requirements().items():
        absent = []
        for name in names:
            try:
                metadata.version(name)
            except metadata.PackageNotFoundError:
                absent.append(name)
        found = f"without {', '.join(absent)}" if absent else ", ".join(names)
        yield Check("extras", extra, not absent, False, found, f'pip install "wsikit[{extra}]"')


def extra_requirements() -> dict[str, list[str]]:
    """Names of the packages of each extra that users may want; those for developers are left out."""
    from importlib import metadata

    try:
        stated = metadata.requires("wsikit") or []
    except metadata.PackageNotFoundError:
        return {}
    found: dict[str, list[str]] = {}
    for line in stated:
        package, _, marker = line.partition(";")
        extra = re.search(r"extra == ['\"]([^'\"]+)", marker)
        if extra and extra[1] not in FOR_DEVELOPERS:
            found.setdefault(extra[1], []).append(re.split(r"[^A-Za-z0-9._-]", package.strip())[0])
    return dict(sorted(found.items()))


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
        return finding(False, f"{version}, but {one_line(error)}", f'pip install --force-reinstall "{requirement}"')
    return finding(True, version)


def check_readers() -> Iterator[Check]:
    """The readers of slide files that come with wsikit."""
    from wsikit.slides.registry import READERS

    for name in READERS:
        needed = name in ("openslide", "tiff", "store")
        yield attempted("readers", name, needed, partial(_load_reader, name), "install the packages reported above")


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
        yield attempted("codecs", name, needed, attempt, "reinstall imagecodecs", "imagecodecs")

    def find_in_zarr() -> str:
        from zarr.registry import get_codec_class

        from wsikit.store.level_format import ZARR_CODECS

        name = ZARR_CODECS["jpeg"]
        found = get_codec_class(name)
        return f"{name}: {found.__module__}.{found.__qualname__}"

    yield attempted(
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
            f"package {plugin.package} cannot be imported: {shorten(plugin.reason)}",
            f"reinstall it, or remove it with `pip uninstall {plugin.package.split()[0]}`",
        )


def check_captioner() -> Check:
    """The default captioner, applied to one grey patch."""

    def describe() -> str:
        import numpy as np

        from wsikit.captions import load_captioner

        captioner = load_captioner()
        captioner.caption(np.full((1, 224, 224, 3), 200, np.uint8), mpp=0.5)
        return f"{captioner.name}, {len(captioner.fact_names)} facts"

    return attempted("models", "captioner", True, describe, "reinstall wsikit: the captioner is part of the package")


def check_model() -> Check:
    """The packaged model, loaded with its weights."""

    def load() -> str:
        from wsikit.models.config import DEFAULT_MODEL, WEIGHTS_FILE, find_model
        from wsikit.models.io import load_model

        config = load_model(DEFAULT_MODEL).config
        size = os.path.getsize(find_model(DEFAULT_MODEL) / WEIGHTS_FILE) / 1e6
        return f"{config.name} {config.version}, {'/'.join(config.classes)}, {size:.1f} MB"

    return attempted("models", "packaged model", True, load, "reinstall wsikit, or use another model with --model DIR")


def _numbers(version: str) -> tuple[int, ...]:
    """(2026, 3, 6) of "2026.3.6rc1+cpu"."""
    return tuple(int(match) for match in re.findall(r"\d+", re.split(r"[^0-9.]", version)[0]))


def _show(checks: Iterable[Check]) -> list[Check]:
    """Print the checks as tables, each group as soon as it has been examined; all checks."""
    from wsikit.cli.console import make_console

    console = make_console()
    found: list[Check] = []
    for group, members in groupby(checks, key=lambda check: check.group):
        shown = list(members)
        found += shown
        _show_group(console, group, shown)
    line = pip_line(found)
    if line:
        console.print("To install what is missing:", line, markup=False, soft_wrap=True)
    if can_run(found):
        console.print("wsikit run can run here.", style="green")
    else:
        missing = ", ".join(check.name for check in found if check.needed and not check.ok)
        console.print(f"wsikit run cannot run here; missing: {missing}", style="red", markup=False)
    return found


def _show_group(console: Console, group: str, shown: list[Check]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=group, title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 0))
    for _ in range(3):
        table.add_column(overflow="fold")
    if group == "packages":
        fine = [check for check in shown if check.ok]
        listed = ", ".join(f"{check.name} {check.found}" for check in fine)
        table.add_row(Text("ok", style="green"), Text(str(len(fine)), style="bold"), Text(listed))
        shown = [check for check in shown if not check.ok]
    if group == "extras":
        _add_extras(table, shown)
        shown = []
    for check in shown:
        word, style = _verdict(check)
        found = Text(check.found if check.ok else f"{check.found}\n→ {check.fix}")
        table.add_row(Text(word, style=style), Text(check.name, style="bold"), found)
    console.print(table, "")


def _add_extras(table: Table, shown: list[Check]) -> None:
    """Two rows: most users need few of them, and what is absent is no fault."""
    here = [check.name for check in shown if check.ok]
    absent = [f"{check.name} ({check.found})" for check in shown if not check.ok]
    table.add_row("here", "", ", ".join(here) or "none")
    if absent:
        table.add_row("absent", "", f"{', '.join(absent)}\n→ if you need one: pip install 'wsikit[NAME]'")


_OF_GROUPS = {"plug-ins": "broken", "devices": "note"}
"""The word for what is not as it should be, where the main job can run."""


def _verdict(check: Check) -> tuple[str, str]:
    """Word and style of a check's outcome."""
    if check.ok:
        return "ok", "green"
    if check.group == "slides":
        return "fails", "red"
    return ("missing", "red") if check.needed else (_OF_GROUPS.get(check.group, "absent"), "yellow")
