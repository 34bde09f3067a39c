"""Scene metadata given by the user (`--manifest`): a CSV table or a STAC item collection.

CSV: one row a scene; `file` names it (a path, or only its last parts), the other columns are
`SceneFacts`' and `gsd_m`. STAC: an item collection or an item in JSON, with the core, sar, sat and view
fields; each asset's href names a file. An empty cell or a missing field is unknown.
"""

import csv
import difflib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from itertools import takewhile
from pathlib import Path, PurePath
from typing import Any, cast, get_args
from urllib.parse import unquote

from fusar_klip.catalog import SceneType
from fusar_klip.errors import SceneError
from fusar_klip.geo.platforms import BANDS, facts_of_name
from fusar_klip.tiles.scene.products.metadata import (
    finite,
    incidence,
    parse_json,
    positive,
    read_bytes,
    time_of,
)
from fusar_klip.tiles.scene.products.source import SceneFacts

COLUMNS = ("file", *(fact.name for fact in fields(SceneFacts)), "gsd_m")
_CLOSED: Mapping[str, tuple[str, ...]] = {
    "scene_type": get_args(SceneType),
    "orbit_direction": ("ascending", "descending"),
    "look_side": ("right", "left"),
    "band": ("P", "L", "S", "C", "X", "Ku", "K", "Ka"),
}
_NUMBERS = ("incidence_deg", "looks", "gsd_m")
# STAC's fields by ours, the first known one counts. sar 1.0 to 1.3, sat 1.0, view 1.0, core 1.0 and 1.1.
_STAC: Mapping[str, tuple[str, ...]] = {
    "platform": ("platform", "constellation"),
    "band": ("sar:frequency_band",),
    "mode": ("sar:instrument_mode",),
    "product_type": ("product:type", "sar:product_type"),
    "orbit_direction": ("sat:orbit_state",),
    "look_side": ("sar:observation_direction",),
    "incidence_deg": ("view:incidence_angle",),
    "looks": ("sar:looks_equivalent_number",),
    "acquired": ("start_datetime", "datetime"),
    "gsd_m": ("gsd",),
    "place": ("place",),
    "country": ("country",),
    "scene_type": ("scene_type",),
}

_NOT_SCENES = ("thumbnail", "overview", "metadata")
"""Roles of assets that are no rasters to cut."""


@dataclass(frozen=True)
class SceneOverrides:
    """What the manifest says of one file: it wins over tags, and tags win over names.

    Attributes:
        facts: None where the manifest says nothing.
        gsd_m: Ground spacing in metres, for scenes without a geo-reference.
    """

    facts: SceneFacts = field(default_factory=SceneFacts)
    gsd_m: float | None = None


@dataclass(frozen=True)
class SceneManifest:
    """The manifest's entries by the last parts of their files' paths.

    Attributes:
        path: The manifest.
        entries: {path parts: overrides}.
    """

    path: Path
    entries: Mapping[tuple[str, ...], SceneOverrides]

    def facts_for(self, path: Path) -> SceneOverrides:
        """Return the entry of a file; an empty one where it is not listed.

        An entry matches where the path ends in it, so `iw-vv.tiff` can name one file, and `a/iw-vv.tiff` and
        `b/iw-vv.tiff` two. A web address, which no local path ends in, matches by the file name. The entry
        that shares most parts with the path is used.

        Raises:
            SceneError: Two web addresses fit equally well.
        """
        key = self._key_of(path)
        return self.entries[key] if key else SceneOverrides()

    def unused(self, paths: Sequence[Path]) -> list[str]:
        """Return the files that the manifest lists and that none of `paths` is, in the manifest's order."""
        used = {self._key_of(path) for path in paths}
        return ["/".join(key) for key in self.entries if key not in used]

    def _key_of(self, path: Path) -> tuple[str, ...] | None:
        parts = path.absolute().parts
        shared = {key: _shared(key, parts) for key in self.entries}
        fitting = {key: n for key, n in shared.items() if n == len(key) or (n and "://" in key[0])}
        best = [key for key, n in fitting.items() if n == max(fitting.values())]
        if len(best) > 1:
            raise SceneError(
                f"{self.path.name} has {len(best)} addresses that may be {path}: give the file's folders "
                "the names that they have there"
            )
        return best[0] if best else None


def _shared(key: tuple[str, ...], parts: tuple[str, ...]) -> int:
    """Return how many of the last parts are the same."""
    pairs = zip(reversed(key), reversed(parts), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _key(file: str) -> tuple[str, ...]:
    """Return the parts of a path, or of a web address with its server as the first."""
    scheme, is_address, rest = file.partition("://")
    path = unquote(rest) if is_address else file.replace("\\", "/")
    first, *others = [part for part in PurePath(path).parts if part != "."] or [""]
    if not first:
        return ()
    return (f"{scheme}://{first}" if is_address else first, *others)


def read_scene_manifest(path: Path) -> SceneManifest:
    """Read a manifest: STAC where the file is named .json or .geojson, else CSV.

    Raises:
        SceneError: It cannot be read, has an unknown column or value, or lists a file twice.
    """
    if not path.is_file():
        raise SceneError(f"no such scene manifest: {path}")
    content = read_bytes(path)
    is_stac = path.suffix.lower() in (".json", ".geojson")
    rows = _stac_rows(parse_json(content, path.name), path) if is_stac else _csv_rows(content, path)
    entries: dict[tuple[str, ...], SceneOverrides] = {}
    for where, row in rows:
        key = _key(row["file"])
        if not key:
            raise SceneError(f"{where} names no file: fill its column file, or its href")
        if key in entries:
            raise SceneError(f"{where} lists {row['file']!r} a second time: leave one of them")
        entries[key] = _overrides(row, where)
    return SceneManifest(path=path, entries=entries)


def _csv_rows(content: bytes, path: Path) -> list[tuple[str, dict[str, str]]]:
    try:
        table = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True)
        cells = [[cell.strip() for cell in row] for row in table]
        header, *rows = [row for row in cells if any(row)]
    except (csv.Error, ValueError) as error:  # ValueError: not UTF-8, or no row at all
        raise SceneError(
            f"{path.name} is no CSV in UTF-8 with a row of names ({error}): correct it"
        ) from error
    for column in header:
        if column not in COLUMNS:
            near = difflib.get_close_matches(column, COLUMNS, 1)
            hint = f"did you mean {near[0]}?" if near else f"the columns are {', '.join(COLUMNS)}"
            raise SceneError(f"{path.name} has an unknown column {column!r}: {hint}")
    if "file" not in header or len(set(header)) < len(header):
        raise SceneError(f"{path.name} needs a column file, and each column once: correct its first row")
    for number, row in enumerate(rows, 1):
        if len(row) != len(header):
            raise SceneError(
                f"scene {number} of {path.name} has {len(row)} cells, and there are {len(header)} columns: "
                "quote cells that hold a comma"
            )
    return [
        (f"scene {number} of {path.name}", dict(zip(header, row, strict=True)))
        for number, row in enumerate(rows, 1)
    ]


def _stac_rows(document: Any, path: Path) -> list[tuple[str, dict[str, str]]]:
    kind = document.get("type") if isinstance(document, dict) else None
    items = document.get("features") if kind == "FeatureCollection" else [document]
    if kind not in ("FeatureCollection", "Feature") or not isinstance(items, list):
        raise SceneError(f"{path.name} is neither a STAC item collection nor an item: give one, or a CSV")
    rows: list[tuple[str, dict[str, str]]] = []
    for number, item in enumerate(items, 1):
        where = f"item {number} of {path.name}"
        properties = item.get("properties") if isinstance(item, dict) else None
        assets = item.get("assets") if isinstance(item, dict) else None
        if not isinstance(properties, dict) or not isinstance(assets, dict):
            raise SceneError(f"{where} has no properties or no assets, which a STAC item has: correct it")
        for name, asset in assets.items():
            href = asset.get("href") if isinstance(asset, dict) else None
            if not isinstance(href, str):
                raise SceneError(f"{where} has an asset {name!r} without href: correct it")
            roles = asset.get("roles")
            if not (isinstance(roles, list) and any(role in _NOT_SCENES for role in roles)):
                rows.append((where, _stac_row({**properties, **asset}, href)))
    return rows


def _stac_row(values: Mapping[str, Any], href: str) -> dict[str, str]:
    """Return one asset as a row of our columns; its own fields win over its item's."""
    row = {"file": href}
    for column, names in _STAC.items():
        said = next((values[name] for name in names if values.get(name) is not None), None)
        if isinstance(said, str | int | float) and not isinstance(said, bool):
            row[column] = str(said)
    polarizations = values.get("sar:polarizations")
    # Of several only the file's own name tells which one it holds.
    if isinstance(polarizations, list) and len(polarizations) == 1:
        row["polarization"] = str(polarizations[0])
    return row


def _overrides(row: Mapping[str, str], where: str) -> SceneOverrides:
    said = {column: text.strip() for column, text in row.items() if column != "file" and text.strip()}
    numbers = {name: finite(said[name], f"{name} of {where}") for name in _NUMBERS if name in said}
    incidence(numbers.get("incidence_deg"), where)
    for name in ("looks", "gsd_m"):
        positive(numbers.get(name), f"{name} of {where}")
    texts: dict[str, str] = {
        name: _closed(name, text, where) if name in _CLOSED else text
        for name, text in said.items()
        if name not in (*_NUMBERS, "acquired")
    }
    if "platform" in texts:
        texts["platform"] = facts_of_name(texts["platform"]).platform or texts["platform"]
        if "band" not in texts and texts["platform"] in BANDS:
            texts["band"] = BANDS[texts["platform"]]
    if "polarization" in texts:
        texts["polarization"] = texts["polarization"].upper()
    facts = SceneFacts(
        platform=texts.get("platform"),
        band=texts.get("band"),
        polarization=texts.get("polarization"),
        mode=texts.get("mode"),
        product_type=texts.get("product_type"),
        orbit_direction=texts.get("orbit_direction"),
        look_side=texts.get("look_side"),
        incidence_deg=numbers.get("incidence_deg"),
        looks=numbers.get("looks"),
        acquired=_acquired(said.get("acquired"), where),
        place=texts.get("place"),
        country=texts.get("country"),
        scene_type=cast("SceneType | None", texts.get("scene_type")),
    )
    return SceneOverrides(facts=facts, gsd_m=numbers.get("gsd_m"))


def _closed(name: str, text: str, where: str) -> str:
    choices = {choice.casefold(): choice for choice in _CLOSED[name]}
    if text.casefold() not in choices:
        raise SceneError(f"{where} has the {name} {text!r}: set it to one of {', '.join(_CLOSED[name])}")
    return choices[text.casefold()]


def _acquired(text: str | None, where: str) -> datetime | None:
    return time_of(text, f"acquired of {where}")
