"""`wsikit`: finds the verb asked for and loads its module alone. Errors end as one line on standard error."""

from __future__ import annotations

import importlib
import keyword
import sys
from collections.abc import Sequence

import click

from wsikit._version import __version__
from wsikit.errors import RequestError, WsikitError

VERBS = {
    "info": "What a slide is: size, levels, µm/px and whence, vendor.",
    "run": "Slides to subtype, map, captions and report: the main job.",
    "tile": "Slide to store: pixels, tissue, patch table.",
    "caption": "Describe the patches of stores in words.",
    "predict": "Classify the patches of stores.",
    "vote": "Put the patches of stores together: a subtype per slide.",
    "patients": "Put the slides of each patient of a run together.",
    "search": "Find patches by what their captions and facts say.",
    "verify": "Read stores again: checksums, and bytes against the source.",
    "export": "Write a store's maps, regions, report, tables, files of other tools.",
    "view": "Show a store, or a run, in the browser, down to full resolution.",
    "import": "Bring patches, features, regions of other tools into a store.",
    "train": "Train MMLNB on labelled patches with captions.",
    "evaluate": "Measure a trained model on labelled patches.",
    "ablate": "What the text adds: arms of MMLNB side by side, by cross-validation.",
    "finetune-captioner": "Teach a vision-language model the captions of a table (LoRA).",
    "phantom": "Make synthetic slides with their truth.",
    "demo": "Make a synthetic slide and run the main job on it.",
    "bench": "How fast patches can be read from a slide, beside other readers.",
    "doctor": "Check this installation: versions, readers, codecs, GPU, disk.",
}

EXIT_FAILED, EXIT_WRONG_REQUEST = 1, 2


def module_of(verb: str) -> str:
    """Name of the module of a verb; `import` cannot be one.

    >>> module_of("finetune-captioner"), module_of("import")
    ('finetune_captioner', 'import_')
    """
    name = verb.replace("-", "_")
    return f"{name}_" if keyword.iskeyword(name) else name


class LazyGroup(click.Group):
    """Verbs are modules (`module_of`) with an object `command`; help lists them without importing any."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in VERBS:
            return None
        command: click.Command = importlib.import_module(f"wsikit.cli.{module_of(name)}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="wsikit")
@click.option("-v", "--verbose", count=True, help="Say more: -v warnings and choices, -vv everything.")
def cli(verbose: int) -> None:
    """From a whole-slide image to a subtype, a map, and the words and pixels behind it.

    Start with:  wsikit run my_slide.svs -o out

    For research use only. Not for diagnosis.
    """
    import logging

    levels = {0: logging.ERROR, 1: logging.INFO}
    logging.basicConfig(level=levels.get(verbose, logging.DEBUG), format="%(levelname)s %(name)s: %(message)s")
    if verbose < 2:
        for noisy in ("distributed", "PIL", "matplotlib", "tifffile", "asyncio", "filelock"):
            logging.getLogger(noisy).setLevel(logging.ERROR)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: exit status 0 all done, 1 something failed, 2 the request itself is wrong."""
    try:
        status = cli.main(args=arguments, prog_name="wsikit", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else "wsikit --help")
        sys.exit(EXIT_WRONG_REQUEST)
    except click.ClickException as error:
        error.show()
        sys.exit(EXIT_WRONG_REQUEST)
    except RequestError as error:
        click.echo(f"wsikit: {error}", err=True)
        sys.exit(EXIT_WRONG_REQUEST)
    except WsikitError as error:
        click.echo(f"wsikit: {error}", err=True)
        sys.exit(EXIT_FAILED)
    except (KeyboardInterrupt, click.Abort):
        click.echo("wsikit: stopped. What is finished is kept; run the same command again to go on.", err=True)
        sys.exit(130)
    sys.exit(status if isinstance(status, int) else 0)


if __name__ == "__main__":
    main()
