"""Build the documentation site: `python docs/site/build.py OUT` (or `make docs`), without a warning or not at all.

Sphinx reads one folder, which is assembled here: the pages of docs/; README, benchmarks, changelog and model cards,
which stay where readers of the repository look for them; a reference made of the docstrings and of the help of each
command; and the notebooks. Links lead to pages; a file of the repository that is no page is named. With `--notebooks`
the notebooks run first, so that their pictures are shown; in the repository they have no outputs.
"""

from __future__ import annotations

import argparse
import posixpath
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]

OUTSIDE = {
    "README.md": "start.md",
    "benchmarks/README.md": "benchmarks.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "examples/kidrare/README.md": "kidrare.md",
    "wsikit/models/zoo/phantom-mmlnb/README.md": "models/phantom-mmlnb.md",
    "wsikit/models/zoo/phantom-concepts/README.md": "models/phantom-concepts.md",
    "wsikit/captions/zoo/phantom-captioner/README.md": "models/phantom-captioner.md",
    "wsikit/encoders/zoo/phantom-afloc/README.md": "models/phantom-afloc.md",
}
"""File of the repository to page of the site."""

FOLDERS = {"docs": "index.md", "docs/README.md": "index.md", "notebooks": "notebooks.md", "benchmarks": "benchmarks.md"}
"""Where links to these lead. docs/README.md is the index of the repository, site/index.md that of the site."""

REFERENCE = {
    "slides": (
        "Slides, stores and patches",
        "open_slide Slide SlideInfo SceneInfo Channel tile SlideStore ImageParameters tissue_mask TissueMask "
        "TissueParameters patches Patches Patch PatchGrid PatchTable Roi Receipt make_phantom PhantomTruth",
    ),
    "captions": (
        "Captions and search",
        "caption Caption Captioner CaptionerOptions Budget search SearchResult PatchMatch",
    ),
    "encoders": (
        "Encoders, features and text maps",
        "features slide_features load_encoder describe_encoder list_encoders EncoderEntry EncoderInfo PatchEncoder "
        "TextImageEncoder StoredInput SlideEncoder SlideVector localize ConceptMap ConceptPatch",
    ),
    "models": (
        "Models and predictions",
        "predict load_model describe_model PatchModel ModelInfo ModelColumn FeatureSource ConceptAxis",
    ),
    "votes": (
        "Votes",
        "vote VoteParameters ThresholdRule LearnedVote PriorShift SlideResult Areas Interval ShareInterval RuleOutcome "
        "SecondSubtype",
    ),
    "runs": (
        "Runs and exports",
        "run plan_run RunResult RunTime StageTime RunPlan PlannedSlide PlannedStage SlideEntry SlideRow Executor "
        "Progress export WsikitError RequestError",
    ),
}
"""Page of the reference to its title and the public names on it."""


def pages() -> Iterator[tuple[str, str]]:
    """Each page of the site with its text: Markdown with the links of the site."""
    for path in sorted((ROOT / "docs").rglob("*.md")):
        page = path.relative_to(ROOT / "docs").as_posix()
        if page != "README.md" and not page.startswith("site/"):
            yield page, _linked(path.read_text(encoding="utf-8"), f"docs/{page}", page)
    yield "index.md", (ROOT / "docs" / "site" / "index.md").read_text(encoding="utf-8")
    for source, page in OUTSIDE.items():
        yield page, _linked((ROOT / source).read_text(encoding="utf-8"), source, page)
    for name, (title, names) in REFERENCE.items():
        yield f"reference/{name}.md", _reference_page(title, names.split())
    yield "reference/commands.md", command_page()
    rows = [f"notebooks/{path.stem}" for path in notebooks()]
    yield (
        "notebooks.md",
        "# Notebooks\n\nEach runs from top to bottom on synthetic slides, in a minute or two, offline. They are in the "
        "folder `notebooks` of the repository.\n\n```{toctree}\n:maxdepth: 1\n\n" + "\n".join(rows) + "\n```\n",
    )


def notebooks() -> list[Path]:
    """The notebooks of the repository."""
    return sorted((ROOT / "notebooks").glob("*.ipynb"))


def _linked(text: str, source: str, page: str) -> str:
    """Text of the repository's file `source` with links that suit its page."""
    parts = re.split(r"(^```.*?^```[ ]*$)", text, flags=re.MULTILINE | re.DOTALL)
    pattern = r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)"
    return "".join(
        part if part.startswith("```") else re.sub(pattern, lambda found: _link(found, source, page), part)
        for part in parts
    )


def _link(found: re.Match[str], source: str, page: str) -> str:
    picture, text, target = found.groups()
    if "://" in target or target.startswith(("#", "mailto:")):
        return found.group(0)
    path, _, anchor = target.partition("#")
    place = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
    leads = OUTSIDE.get(place) or FOLDERS.get(place)
    if leads is None and place.startswith("docs/") and (ROOT / place).is_file():
        leads = place.removeprefix("docs/")
    if leads is None and place.startswith("notebooks/"):
        leads = place
    if leads is None:  # a file of the repository that is no page
        return text if text.strip("`").rstrip("/") == place else f"{text} (`{place}`)"
    relative = posixpath.relpath(leads, posixpath.dirname(page) or ".")
    return f"{picture}[{text}]({relative}{'#' + anchor if anchor else ''})"


def _reference_page(title: str, names: list[str]) -> str:
    import inspect

    import wsikit

    parts = [f"# {title}\n"]
    for name in names:
        entity = getattr(wsikit, name)
        kind = "class" if inspect.isclass(entity) else "function"
        members = "\n   :members:\n   :undoc-members:" if kind == "class" else ""
        parts.append(f"```{{eval-rst}}\n.. auto{kind}:: wsikit.{name}{members}\n```\n")
    return "\n".join(parts)


def command_page() -> str:
    """The help of each command, as it is printed."""
    import click

    from wsikit.cli import main as entry

    def of(command: click.Command, name: str) -> str:
        context = click.Context(command, info_name=name, max_content_width=100, terminal_width=100)
        return f"```text\n{command.get_help(context)}\n```\n"

    group: Any = next(value for value in vars(entry).values() if isinstance(value, click.Group))
    context = click.Context(group, info_name="wsikit")
    parts = ["# Commands\n", of(group, "wsikit")]
    for verb in group.list_commands(context):
        command = group.get_command(context, verb)
        if not command.hidden:
            parts.append(f"## wsikit {verb}\n\n{of(command, f'wsikit {verb}')}")
    return "\n".join(parts)


def assemble(folder: Path) -> None:
    """Write the folder that Sphinx reads."""
    shutil.copytree(ROOT / "docs" / "images", folder / "images")
    (folder / "notebooks").mkdir()
    for path in notebooks():
        page = f"notebooks/{path.name}"
        (folder / page).write_text(_linked(path.read_text(encoding="utf-8"), page, page), encoding="utf-8")
    recipe = ROOT / "examples" / "kidrare"  # which a notebook runs
    shutil.copytree(recipe, folder / "examples" / "kidrare", ignore=shutil.ignore_patterns("*.md"))
    shutil.copy(ROOT / "docs" / "site" / "conf.py", folder / "conf.py")
    for page, text in pages():
        path = folder / page
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def main() -> int:
    """Build the site."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", help="folder of the site")
    parser.add_argument("--notebooks", action="store_true", help="run the notebooks, so that their outputs are shown")
    arguments = parser.parse_args()
    from sphinx.cmd.build import main as sphinx

    with tempfile.TemporaryDirectory() as folder:
        assemble(Path(folder) / "pages")
        run = "force" if arguments.notebooks else "off"
        options = ["-q", "-W", "--keep-going", "-b", "html", "-D", f"nb_execution_mode={run}"]
        return sphinx([*options, "-d", f"{folder}/doctrees", f"{folder}/pages", arguments.out])


if __name__ == "__main__":
    sys.exit(main())
