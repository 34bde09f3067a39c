"""The command line: one verb per stage, results on standard output, everything else on standard error.

A stage is imported only when its verb runs, so that `--help` needs neither torch nor rasterio. Exit status:
0 done, 2 the user can mend it (one sentence, no traceback), 1 our fault, 130 interrupted.
"""

import errno
import logging
import sys
import traceback
from collections.abc import Callable
from typing import Annotated, Any

import typer

from fusar_klip import __version__
from fusar_klip.cli import data, evaluation, queries, texts, training
from fusar_klip.cli.output import fail
from fusar_klip.errors import FusarKlipError, NotInThisVersionError

app = typer.Typer(
    help="Synthetic aperture radar imagery, worked with in words.",
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
"""In the order of `--help`."""

LATER_VERBS = {
    "serve": "Search over HTTP, with a map.",
}
"""Verbs whose interface is fixed, and whose stage is not built yet."""

_NO_PLACE = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
    *(errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG),
)
"""What a folder that was badly chosen, or a full disk, answers."""


def main() -> None:
    """Run the command line and exit with its status."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
    try:
        app()
    except FusarKlipError as error:
        fail(str(error))
    except OSError as error:
        if error.errno not in _NO_PLACE:
            _crash()
        where = f" ({error.filename})" if error.filename else ""
        fail(f"cannot write{where}: {error.strerror}; make room or choose another place, and run it again")
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("fusar_klip"):
            _crash()
        fail(f'{error.name} is not installed: pip install "fusar-klip[all]" brings everything')
    except Exception:
        _crash()


def _crash() -> None:
    traceback.print_exc()
    print("fusar-klip: this is our fault, not yours; please report it with the lines above", file=sys.stderr)
    sys.exit(1)


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        print(f"fusar-klip {__version__}")
        raise typer.Exit


def _later(verb: str) -> Callable[[list[str] | None], None]:
    def say_so(_arguments: Annotated[list[str] | None, typer.Argument(hidden=True)] = None) -> None:
        raise NotInThisVersionError(f"{verb} is not in this version: fusar-klip --help lists what is")

    return say_so


for _verb, _run in VERBS.items():
    app.command(_verb)(_run)
for _verb, _help in LATER_VERBS.items():
    app.command(
        _verb,
        help=f"{_help} (Not in this version.)",
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    )(_later(_verb))
