"""How a verb ends: its result on standard output, or one sentence on standard error and exit status 2."""

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def report(summary: "DataclassInstance", as_json: bool, text: str) -> None:
    """Print the result of a verb: `summary` as JSON, or `text` for people."""
    print(json.dumps(asdict(summary), indent=2, ensure_ascii=False) if as_json else text)


def fail(message: str) -> NoReturn:
    """Print an error that the user can fix, and exit with 2."""
    print(f"fusar-klip: {message}", file=sys.stderr)
    sys.exit(2)
