"""The data extension segments of NITF 2.1 (MIL-STD-2500C, table A-1), where SICD and SIDD keep their XML."""

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from fusar_klip.errors import SceneError
from fusar_klip.tiles.scene.products.metadata import MAX_METADATA_BYTES

_VERSIONS = (b"NITF02.10", b"NSIF01.00")
_FILE_LENGTH_AT = 342
# Kinds of segments in the order of the file: images, graphics, reserved, texts, data extensions; each with
# the digits of a subheader's and of a segment's length. The reserved kind has neither.
_LENGTHS = ((6, 10), (4, 6), (0, 0), (4, 5), (4, 9))


@dataclass(frozen=True)
class Nitf:
    """What a NITF file holds besides pixels.

    Attributes:
        images: The number of image segments.
        extensions: The content of the data extension segments that may be XML.
    """

    images: int
    extensions: tuple[bytes, ...]


def read_nitf(path: Path) -> Nitf | None:
    """Read a NITF 2.1 or NSIF 1.0 file's data extension segments; None for another file.

    Raises:
        SceneError: The header is damaged, or the file is shorter than it says.
    """
    with path.open("rb") as file:
        if file.read(9) not in _VERSIONS:
            return None
        try:
            return _segments(file)
        except ValueError as error:
            raise SceneError(f"{path} is no whole NITF file ({error}): get it again") from error


def _segments(file: BinaryIO) -> Nitf:
    """Raise ValueError where the file is not as long as its header says, or a length is no number."""
    file.seek(_FILE_LENGTH_AT)

    def number(digits: int) -> int:
        text = file.read(digits)
        if len(text) < digits or not text.isdigit():
            raise ValueError("its header is damaged")
        return int(text)

    file_length, at = number(12), number(6)
    if file.seek(0, 2) < file_length:
        raise ValueError("it is shorter than its header says")
    file.seek(_FILE_LENGTH_AT + 18)
    counts = []
    for header_digits, data_digits in _LENGTHS:
        lengths = [(number(header_digits), number(data_digits)) for _ in range(number(3)) if header_digits]
        counts.append(len(lengths))
        if (header_digits, data_digits) != _LENGTHS[-1]:
            at += sum(header + data for header, data in lengths)
    contents = []
    for header, length in lengths:  # of the last kind, the data extensions
        file.seek(at + header)
        content = file.read(min(length, MAX_METADATA_BYTES))
        if content.lstrip()[:1] == b"<":
            contents.append(content)
        at += header + length
    return Nitf(images=counts[0], extensions=tuple(contents))
