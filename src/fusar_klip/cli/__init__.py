"""The command line: results on standard output, progress, logs and errors on standard error.

A stage is imported only when its verb runs, so `--help` imports neither torch nor rasterio. Exit status:
0 done, 2 an error that the user can fix (one sentence, no traceback), 1 an internal error, 130 interrupted.
"""

import errno
import logging
import sys
import traceback
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from fusar_klip import __version__
from fusar_klip.cli import data, evaluation, queries, texts, training
from fusar_klip.cli.output import fail
from fusar_klip.errors import FusarKlipError, NotInThisVersionError

app = typer.Typer(
    help="Natural-language search, captioning and question answering for SAR imagery.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

VERBS: dict[str, Callable[..., Any]] = {
    "demo": data.demo,
    "simulate": data.simulate,
    "build": data.build,
    "export": data.export,
    "describe": texts.describe,
    "inspect": texts.inspect,
    "review": texts.review,
    "pretrain": training.pretrain,
    "refine": training.refine,
    "benchmark": evaluation.benchmark,
    "label-texts": evaluation.write_label_texts,
    "models": evaluation.list_models,
    "index": queries.index,
    "search": queries.search,
    "caption": queries.caption,
    "ask": queries.ask,
}
"""The verbs, in the order of `--help`."""

COMMANDS: dict[str, type[TyperCommand]] = {"label-texts": evaluation.ReaderCommand}
"""Verbs with a command class of their own."""

LATER_VERBS = {
    "serve": "Serve search over HTTP, with a map page.",
}
"""Reserved verbs, whose stage is not implemented yet."""

_UNWRITABLE = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
    *(errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG),
)
"""Operating system errors of a full disk, or of an output folder that cannot be written to."""


def main() -> None:
    """Run the command line and exit with its status."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
    try:
        app()
    except FusarKlipError as error:
        fail(str(error))
    except OSError as error:
        if error.errno not in _UNWRITABLE:
            _crash()
        where = f" ({error.filename})" if error.filename else ""
        fail(
            f"cannot write{where}: {error.strerror}; free some space or choose another folder, and run again"
        )
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("fusar_klip"):
            _crash()
        fail(f'{error.name} is not installed: run pip install "fusar-klip[all]"')
    except Exception:
        _crash()


def _crash() -> None:
    traceback.print_exc()
    print("fusar-klip: internal error; please report it with the traceback above", file=sys.stderr)
    sys.exit(1)


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        print(f"fusar-klip {__version__}")
        raise typer.Exit


def _later(verb: str) -> Callable[[list[str] | None], None]:
    def refuse(_arguments: Annotated[list[str] | None, typer.Argument(hidden=True)] = None) -> None:
        raise NotInThisVersionError(
            f"{verb} is not in this version: fusar-klip --help lists the available verbs"
        )

    return refuse


for _verb, _run in VERBS.items():
    app.command(_verb, cls=COMMANDS.get(_verb))(_run)
for _verb, _help in LATER_VERBS.items():
    app.command(
        _verb,
        help=f"{_help} (Not in this version.)",
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    )(_later(_verb))
