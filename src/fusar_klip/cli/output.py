"""How a verb ends: its result on standard output, or one sentence on standard error and status 2."""

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def report(summary: "DataclassInstance", as_json: bool, text: str) -> None:
    """Print a verb's result: its summary as JSON, or a text for people."""
    print(json.dumps(asdict(summary), indent=2, ensure_ascii=False) if as_json else text)


def fail(message: str) -> NoReturn:
    """Say what the user can mend, and exit with 2."""
    print(f"fusar-klip: {message}", file=sys.stderr)
    sys.exit(2)
