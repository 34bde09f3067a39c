"""Reads the XML and JSON that products carry, and the values in them.

No document type, no entity and nothing external is read: products have none of them. What is damaged is a
`SceneError` that names the document; what is missing is None.
"""

import json
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from fusar_klip.errors import SceneError

MAX_METADATA_BYTES = 256 << 20
"""No product's metadata is larger: Sentinel-1's largest annotation has about 10 MiB."""
_MAX_DEPTH = 200
_UNKNOWN = {"", "null", "none", "nan", "n/a", "na", "unknown"}
_MEND = "get the product again"


def parse_xml(content: bytes, name: str) -> Element:
    """Return the root of a document, its tags and attributes without namespaces.

    Args:
        content: The document.
        name: What errors call it.

    Raises:
        SceneError: It is no well-formed XML, or has a document type, as an attack by entities would.
    """
    builder = TreeBuilder()
    depth = 0

    def local(qualified: str) -> str:
        return qualified.rpartition(" ")[2]

    def start(tag: str, attributes: Mapping[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > _MAX_DEPTH:
            raise SceneError(f"{name} nests deeper than any product's metadata: {_MEND}")
        builder.start(local(tag), {local(key): value for key, value in attributes.items()})

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(local(tag))

    def refuse(*_: object) -> None:
        raise SceneError(f"{name} declares a document type, which no product's metadata has: {_MEND}")

    parser = expat.ParserCreate(namespace_separator=" ")
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(content, True)
    except (expat.ExpatError, LookupError, ValueError) as error:  # the last two: a strange encoding
        raise SceneError(f"{name} is damaged ({error}): {_MEND}") from error
    return builder.close()


def read_bytes(path: Path) -> bytes:
    """Return a metadata file's content.

    Raises:
        SceneError: It cannot be read, or is larger than any metadata.
    """
    try:
        if path.stat().st_size > MAX_METADATA_BYTES:
            raise SceneError(f"{path} is larger than any product's metadata: {_MEND}")
        return path.read_bytes()
    except OSError as error:
        raise SceneError(f"{path} cannot be read ({error.strerror}): {_MEND}") from error


def parse_json(content: bytes, name: str) -> Any:
    """Return the value of a JSON document.

    Raises:
        SceneError: It is no JSON.
    """
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise SceneError(f"{name} is no valid JSON ({error}): correct it, or get it again") from error


def text_of(root: Element, *paths: str) -> str | None:
    """Return the first known text at the paths, in ElementTree's syntax; None where no one is known."""
    for path in paths:
        for element in root.iterfind(path):
            text = (element.text or "").strip()
            if text.casefold() not in _UNKNOWN:
                return text
    return None


def number_of(root: Element, name: str, *paths: str) -> float | None:
    """Return the first known number at the paths; None where no one is known.

    Raises:
        SceneError: What stands there is no finite number.
    """
    text = text_of(root, *paths)
    return None if text is None else finite(text, f"{paths[0].rpartition('/')[2]} of {name}")


def finite(text: str, what: str) -> float:
    """Return the number in a text.

    Raises:
        SceneError: It is none, or infinite.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise SceneError(f"{what} is {text[:40]!r}, which is no number: correct it, or {_MEND}")
    return value


def incidence(value: float | None, name: str) -> float | None:
    """Return an incidence angle in degrees as it is.

    Raises:
        SceneError: It is none that a side-looking radar can have.
    """
    if value is not None and not 0 < value < 90:
        raise SceneError(f"the incidence angle of {name} is {value:g} degrees: correct it, or {_MEND}")
    return value


def positive(value: float | None, what: str) -> float | None:
    """Return a value as it is.

    Raises:
        SceneError: It is not positive.
    """
    if value is not None and value <= 0:
        raise SceneError(f"{what} is {value:g}, and has to be positive: correct it, or {_MEND}")
    return value


def time_of(text: str | None, what: str) -> datetime | None:
    """Return a time in UTC (which products mean where they name no zone), None for None.

    Raises:
        SceneError: The text is no time.
    """
    if text is None:
        return None
    # Nine digits of a second are common; datetime holds six.
    shortened = re.sub(r"(\.\d{6})\d+", r"\1", text.strip())
    try:
        time = datetime.fromisoformat(shortened)
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError):
        raise SceneError(
            f"{what} is {text[:40]!r}, which is no time such as 2018-07-16T00:40:42Z: correct it, or {_MEND}"
        ) from None
