"""Rational polynomial coefficients (RPC00B) from .rpc, .rpb and _RPC.TXT files.

Two spellings of the same ninety numbers: `LINE_OFF: 6786.0 pixels` with a line for each coefficient
(`LINE_NUM_COEFF_1: ...`), and DigitalGlobe's `lineOffset = 6786;` with lists (`lineNumCoef = (..., ...);`).
The content tells which one it is: Gaofen-3 has the second in files named .rpc.
"""

import re
from pathlib import Path

from rasterio.rpc import RPC

from fusar_klip.errors import SceneError
from fusar_klip.tiles.scene.products.metadata import finite, positive, read_bytes

SUFFIXES = (".rpc", ".rpb", "_rpc.txt")
_MEND = "get the RPC file of this scene again"
# RPC00B's names, each with DigitalGlobe's.
_NUMBERS: dict[str, str] = {
    "LINE_OFF": "lineOffset",
    "SAMP_OFF": "sampOffset",
    "LAT_OFF": "latOffset",
    "LONG_OFF": "longOffset",
    "HEIGHT_OFF": "heightOffset",
    "LINE_SCALE": "lineScale",
    "SAMP_SCALE": "sampScale",
    "LAT_SCALE": "latScale",
    "LONG_SCALE": "longScale",
    "HEIGHT_SCALE": "heightScale",
}
_LISTS: dict[str, str] = {
    "LINE_NUM_COEFF": "lineNumCoef",
    "LINE_DEN_COEFF": "lineDenCoef",
    "SAMP_NUM_COEFF": "sampNumCoef",
    "SAMP_DEN_COEFF": "sampDenCoef",
}
_COEFFICIENTS = 20
_KEY_VALUE = re.compile(r"^[ \t]*([A-Za-z_]+(?:_\d+)?)[ \t]*:[ \t]*(\S+)", re.MULTILINE)
_ASSIGNMENT = re.compile(r"\b([A-Za-z]+)\s*=\s*(?:\(([^()]*)\)|([^;()\s]+))\s*;")


def find_rpc_file(raster: Path) -> Path | None:
    """Return the RPC file beside a raster: its stem with .rpc, .rpb or _RPC.TXT in any case."""
    wanted = {f"{raster.stem}{suffix}".casefold() for suffix in SUFFIXES}
    return next((f for f in sorted(raster.parent.iterdir()) if f.name.casefold() in wanted), None)


def read_rpc(path: Path) -> RPC:
    """Read an RPC file of either spelling.

    Raises:
        SceneError: A number is missing, is none, or cannot be one of a scene on the Earth.
    """
    text = read_bytes(path).decode("latin-1")
    values = _from_assignments(text, path) if "=" in text else _from_key_values(text, path)
    number = {key: finite(values[key][0], f"{key} of {path.name}") for key in _NUMBERS}
    lists = {key: [finite(v, f"{key} of {path.name}") for v in values[key]] for key in _LISTS}
    for key in ("LINE_SCALE", "SAMP_SCALE", "LAT_SCALE", "LONG_SCALE", "HEIGHT_SCALE"):
        positive(number[key], f"{key} of {path.name}")
    if abs(number["LAT_OFF"]) > 90 or abs(number["LONG_OFF"]) > 360:
        raise SceneError(
            f"{path.name} places its scene at latitude {number['LAT_OFF']:g}, longitude "
            f"{number['LONG_OFF']:g}, which is not on the Earth: {_MEND}"
        )
    if not (any(lists["LINE_DEN_COEFF"]) and any(lists["SAMP_DEN_COEFF"])):
        raise SceneError(f"{path.name} divides by a polynomial of zeros: {_MEND}")
    return RPC(
        **{key.lower(): value for key, value in number.items()},
        **{key.lower(): value for key, value in lists.items()},
    )


def _from_key_values(text: str, path: Path) -> dict[str, list[str]]:
    found: dict[str, str] = {key.upper(): value for key, value in _KEY_VALUE.findall(text)}

    def value(key: str) -> str:
        if key not in found:
            raise SceneError(f"{path.name} has no {key}: {_MEND}")
        return found[key]

    lists = {key: [value(f"{key}_{i}") for i in range(1, _COEFFICIENTS + 1)] for key in _LISTS}
    return {key: [value(key)] for key in _NUMBERS} | lists


def _from_assignments(text: str, path: Path) -> dict[str, list[str]]:
    found = {}
    for name, many, one in _ASSIGNMENT.findall(text):
        found[name.casefold()] = re.split(r"[,\s]+", (many or one).strip(" \t\r\n,"))
    values: dict[str, list[str]] = {}
    for key, name in (_NUMBERS | _LISTS).items():
        wanted = _COEFFICIENTS if key in _LISTS else 1
        there = found.get(name.casefold(), [])
        if len(there) != wanted:
            raise SceneError(f"{path.name} has {len(there)} numbers in {name}, and needs {wanted}: {_MEND}")
        values[key] = there
    return values
