"""`wsikit`: imports only the module of the verb that is called. Errors end as one line on standard error."""

from __future__ import annotations

import atexit
import contextlib
import difflib
import importlib
import keyword
import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

import click
from click.shell_completion import CompletionItem

from wsikit._version import __version__
from wsikit.cli.guard import survive_crashes
from wsikit.cli.signals import Terminated, ending_on_signals
from wsikit.errors import RequestError, WsikitError, one_line

VERBS = {
    "info": "Show what a slide is: size, levels, pixel size (mpp) and its source, vendor.",
    "run": "The main job: slides to subtype, map, captions and report.",
    "retry": "Run the failed slides of a run again, with its settings.",
    "tile": "Convert slides to slide stores: pixels, tissue, patch table.",
    "caption": "Describe the patches of stores in words.",
    "features": "Features of all patches by any encoder (foundation models, timm, transformers).",
    "predict": "Classify the patches of stores.",
    "encoders": "List encoders of patches, their licences, and whether their weights are here.",
    "vote": "Aggregate patch predictions to a subtype per slide.",
    "patients": "Aggregate the slides of a run per patient.",
    "localize": "Map where on the slides of stores a text is true: neuropil, necrosis, any words.",
    "search": "Find patches by their captions and facts.",
    "verify": "Verify stores: checksums, and tiles against the source slide.",
    "export": "Export maps, regions, reports, tables, and files for other tools.",
    "view": "Show a store or a run in the browser, at full resolution.",
    "import": "Import patches, features and regions of other tools into a store.",
    "train": "Train a model: MMLNB with captions, a head on features, AFLoc without labels, survival of patients.",
    "evaluate": "Evaluate a trained model on labelled patches.",
    "ablate": "Measure what the captions add: ablation of MMLNB by cross-validation.",
    "finetune-captioner": "Fine-tune a vision-language model on captions (LoRA).",
    "phantom": "Make synthetic slides with ground truth.",
    "demo": "Make a synthetic slide and run the main job on it.",
    "bench": "Measure how fast patches are read, compared with other readers.",
    "doctor": "Check this installation, and slides: versions, readers, codecs, plug-ins, GPU, memory, disk.",
    "completion": "Print a script with which a shell completes verbs and options.",
}

EXIT_FAILED, EXIT_WRONG_REQUEST = 1, 2
_OF_SIGNAL = 128
"""To which shells add the number of the signal that ended a process."""


def module_of(verb: str) -> str:
    """Name of the module of a verb; `import` cannot be one.

    >>> module_of("finetune-captioner"), module_of("import")
    ('finetune_captioner', 'import_')
    """
    name = verb.replace("-", "_")
    return f"{name}_" if keyword.iskeyword(name) else name


class LazyGroup(click.Group):
    """Each verb is a module (`module_of`) with an object `command`. The help lists the verbs without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in VERBS:
            return None
        command: click.Command = importlib.import_module(f"wsikit.cli.{module_of(name)}").command
        if not any("--verbose" in parameter.opts for parameter in command.params):
            command.params.append(_verbose_option())
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            close = difflib.get_close_matches(args[0], VERBS, n=1)
            advice = f"Did you mean {close[0]!r}?" if close else "wsikit --help lists the verbs."
            ctx.fail(f"No such verb {args[0]!r}. {advice}")
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """The verbs with their help, without importing them: a shell waits for this."""
        verbs = [CompletionItem(verb, help=text) for verb, text in VERBS.items() if verb.startswith(incomplete)]
        return verbs or click.Command.shell_complete(self, ctx, incomplete)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))


def _set_verbosity(ctx: click.Context, option: click.Parameter, count: int) -> None:
    """Callback of -v: the higher of the two counts, before and after the verb, is used."""
    verbose = max(count, ctx.find_root().meta.get("wsikit.verbose", 0))
    ctx.find_root().meta["wsikit.verbose"] = verbose
    _log(verbose)


def _verbose_option() -> click.Option:
    return click.Option(
        ["-v", "--verbose"],
        count=True,
        expose_value=False,
        is_eager=True,
        callback=_set_verbosity,
        help="Verbose output: -v steps and decisions, -vv details for debugging.",
    )


def _log(verbose: int) -> None:
    import logging

    logging.basicConfig(level=logging.ERROR, format="%(levelname)s %(name)s: %(message)s")
    levels = {0: logging.ERROR, 1: logging.INFO}
    logging.getLogger("wsikit").setLevel(levels.get(verbose, logging.DEBUG))
    if verbose == 0:  # what a file of regions holds that is not used
        logging.getLogger("wsikit.tiling.roi").setLevel(logging.WARNING)


@click.group(
    cls=LazyGroup,
    params=[_verbose_option()],
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, prog_name="wsikit")
def cli() -> None:
    """From a whole-slide image to a subtype, a map, and the captions and patches that support it.

    Start with:  wsikit run my_slide.svs -o out

    For research use only. Not for diagnosis.
    """


def _leave(status: int) -> NoReturn:
    """End the process at once. Slides have stopped; a model that is being loaded is not waited for, nor are libraries
    taken down half imported: an interpreter that ended while torch was being loaded was seen to abort (status 134)."""
    if "torch" not in sys.modules:
        sys.exit(status)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(status)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point. Exit status: 0 all done, 1 something failed, 2 the request itself is wrong; 130, 143 and 129:
    stopped by Ctrl-C, SIGTERM or SIGHUP, finished work is kept."""
    if arguments is None and sys.argv[1:2]:
        survive_crashes(sys.argv[1])
    with ending_on_signals():
        _main(arguments)


def _main(arguments: Sequence[str] | None) -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a file name may hold bytes that are not UTF-8
            stream.reconfigure(errors="backslashreplace")
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
    except (KeyboardInterrupt, click.Abort, Terminated) as stopped:
        number = stopped.number if isinstance(stopped, Terminated) else signal.SIGINT
        by = f" by {signal.Signals(number).name}" if isinstance(stopped, Terminated) else ""
        with contextlib.suppress(OSError):  # the terminal may be closed
            click.echo(f"wsikit: stopped{by}. Finished work is kept; run the same command again to continue.", err=True)
        _leave(_OF_SIGNAL + number)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "wsikit"):
            raise
        click.echo(
            f"wsikit: the package {package} is not installed, and this verb needs it. Install wsikit with all the "
            "packages that it needs: pip install wsikit. wsikit doctor lists what is missing.",
            err=True,
        )
        sys.exit(EXIT_FAILED)
    except PermissionError as error:
        click.echo(
            f"wsikit: {error.filename or 'a file'}: {error.strerror or 'permission denied'}. Choose another place, or "
            "ask for the permission to read and write there.",
            err=True,
        )
        sys.exit(EXIT_WRONG_REQUEST)
    except OSError as error:
        if error.filename is None:
            raise
        from wsikit.store.atomic import without_partial

        named = without_partial(str(error.filename))
        click.echo(
            f"wsikit: {named}: {one_line(str(error.strerror or error))}. Check the place, and that its disk has space.",
            err=True,
        )
        sys.exit(EXIT_FAILED)
    sys.exit(status if isinstance(status, int) else 0)


if __name__ == "__main__":
    main()
