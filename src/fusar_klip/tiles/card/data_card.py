"""The data card: `dataset.md`, what a data set holds and how it was made, and `dataset.png`, its map.

Says only what the catalog and the manifest say, so the same data set has the same card, byte for byte.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import geopandas as gpd
import pandas as pd

from fusar_klip.catalog import SCALES, Split
from fusar_klip.files import write_bytes
from fusar_klip.tiles.card.data_card_map import draw_map

_RESOLUTIONS_M = (0.0, 0.5, 2.0, 5.0, 20.0, float("inf"))
_RESOLUTION_NAMES = ("under 0.5 m", "0.5 to 2 m", "2 to 5 m", "5 to 20 m", "over 20 m")
_UNKNOWN = "not known"
_ROWS = 100
"""Rows of a table; past it `dataset.json` and `tiles.parquet` are the better readers."""


def write_card(out: Path, tiles: gpd.GeoDataFrame, manifest: Mapping[str, Any]) -> None:
    """Write the data card of the data set at `out`; the map only where a tile has coordinates.

    Args:
        out: The data set's folder.
        tiles: Its catalog, with footprints in EPSG:4326.
        manifest: What `dataset.json` will hold.
    """
    picture = draw_map(tiles)
    if picture is not None:
        write_bytes(out / "dataset.png", picture)
    else:
        (out / "dataset.png").unlink(missing_ok=True)
    lines = _lines(tiles, manifest, has_map=picture is not None)
    write_bytes(out / "dataset.md", ("\n".join(lines) + "\n").encode())


def _lines(tiles: gpd.GeoDataFrame, manifest: Mapping[str, Any], *, has_map: bool) -> Iterator[str]:
    scenes: Sequence[Mapping[str, Any]] = manifest.get("scenes", [])
    yield from [
        f"# {_many(len(tiles), 'SAR tile')} of {_many(len(scenes), 'scene')}",
        "",
        _summary(tiles),
        "",
    ]
    if has_map:
        yield from ["![Where the scenes lie, and their large tiles by split](dataset.png)", ""]
    yield from ["## What is in it", "", *_counts(tiles)]
    yield from ["## How it was made", "", *_making(manifest)]
    yield from ["## Scenes", "", *_scenes(tiles, scenes)]
    if failed := manifest.get("failed"):
        yield from ["## Scenes that could not be built", ""]
        yield from _table(("file", "reason"), [(f["file"], f["reason"]) for f in failed])
    yield from [
        "## Licences",
        "",
        "The licences of the scenes are not known to the builder. The tiles are derived from the scenes, so",
        "whoever passes them on has to respect each scene's licence.",
    ]


def _summary(tiles: gpd.GeoDataFrame) -> str:
    kept = int(tiles["kept"].sum())
    parts = [f"Amplitude in 8 bits, 0 = no data. Screening and quality keep {_many(kept, 'tile')}."]
    if countries := tiles["country"].nunique():
        parts.append(f"Countries: {countries}.")
    if without := int(tiles["lon"].isna().sum()):
        parts.append(f"Without coordinates: {_many(without, 'tile')}.")
    times = pd.to_datetime(tiles["acquired"], utc=True).dropna()
    if len(times):
        first, last = times.min().date().isoformat(), times.max().date().isoformat()
        parts.append(f"Acquired on {first}." if first == last else f"Acquired from {first} to {last}.")
    return " ".join(parts)


def _counts(tiles: gpd.GeoDataFrame) -> Iterator[str]:
    """Yield a table of all tiles and of those kept for each property, known values first."""
    platform, band, polarization = (
        tiles[name].astype(object).where(tiles[name].notna(), "?")
        for name in ("platform", "band", "polarization")
    )
    sensor = (platform + " " + band + " " + polarization).replace("? ? ?", None)
    resolution = pd.cut(tiles["gsd_m"].astype(float), _RESOLUTIONS_M, labels=_RESOLUTION_NAMES, right=False)
    properties = {
        "Sensor (platform, band, polarization)": (sensor, None),
        "Resolution (pixel on the ground)": (resolution.astype(object), _RESOLUTION_NAMES),
        "Country": (tiles["country"], None),
        "Scale": (tiles["scale"], SCALES),
        "Scene type": (tiles["scene_type"], None),
        "Landform": (tiles["landform"], None),
        "Split": (tiles["split"], get_args(Split)),
    }
    for title, (values, order) in properties.items():
        known = values.where(values.notna(), _UNKNOWN)
        total = known.value_counts()
        kept = known[tiles["kept"].astype(bool)].value_counts()
        names = [n for n in order or sorted(total.index, key=lambda n: (-total[n], n)) if n in total.index]
        names = [*(n for n in names if n != _UNKNOWN), *([_UNKNOWN] if _UNKNOWN in total.index else [])]
        yield from _table((title, "tiles", "kept"), [(n, total[n], kept.get(n, 0)) for n in names])


def _making(manifest: Mapping[str, Any]) -> Iterator[str]:
    yield from [
        f"By {manifest.get('made_by', 'fusar-klip')} build. A scene has one mapping to 8 bits, tiles of a",
        "scale cover the same ground for every sensor, and tiles that share ground are in one split.",
        "",
    ]
    settings = manifest.get("settings", {})
    rows = [(f"{section}.{k}", v) for section, values in settings.items() for k, v in values.items()]
    yield from _table(
        ("setting", "value"), [(f"`{name}`", f"`{value}`") for name, value in sorted(rows)], rows_most=None
    )


def _scenes(tiles: gpd.GeoDataFrame, scenes: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    total = tiles["scene_id"].value_counts()
    kept = tiles.loc[tiles["kept"].astype(bool), "scene_id"].value_counts()
    facts = tiles.drop_duplicates("scene_id").set_index("scene_id")
    rows = []
    for scene in scenes:
        scene_id = scene["scene_id"]
        fact = facts.loc[scene_id] if scene_id in facts.index else {}
        sensor = [fact.get(column) for column in ("platform", "band", "polarization")]
        acquired = fact.get("acquired")
        rows.append(
            (
                scene.get("file"),
                " ".join(str(value) for value in sensor if pd.notna(value)) or _UNKNOWN,
                _UNKNOWN if pd.isna(acquired) else f"{acquired:%Y-%m-%d %H:%M}",
                f"{scene['gsd_m']:.3g}" if scene.get("gsd_m") else _UNKNOWN,
                *_placing(scene),
                total.get(scene_id, 0),
                kept.get(scene_id, 0),
            )
        )
    head = ("scene", "sensor", "acquired (UTC)", "pixel, m", "placed by", "residual, px", "terrain-corrected")
    yield from _table((*head, "tiles", "kept"), rows)
    yield from [
        "Residual: root mean square distance of the control points from the fit; then the same with each",
        "point left out of the fit that it is compared with.",
        "`screening/` has a picture of each screened scene.",
        "",
    ]


def _placing(scene: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return how a scene came to its grid, how well, and whether height was taken into account."""
    crs = scene.get("crs")
    name = crs if crs is None or len(crs) < 20 else "its own CRS"  # a WKT2 string does not fit a table
    geocoding = scene.get("geocoding")
    if crs is None:
        return "pixels only, no coordinates", "", ""
    if geocoding is None:
        warped = "degrees, warped to " if scene.get("warped") else "its own grid, "
        return f"{warped}{name}", "", _UNKNOWN
    method = {"gcps": "control points", "rpcs": "RPCs", "degrees": "degrees"}.get(geocoding["method"], "")
    if geocoding.get("points"):
        method = f"{geocoding['points']} {method}"
    if geocoding.get("order") is not None:
        method += f" (order {geocoding['order']})" if geocoding["order"] != "tps" else " (thin-plate spline)"
    residuals = [geocoding.get("residual_rms_px"), geocoding.get("leave_one_out_px")]
    fit = ", ".join(f"{value:.2f}" for value in residuals if value is not None)
    corrected = {True: "yes", False: "no", None: _UNKNOWN}[geocoding.get("terrain_corrected")]
    if geocoding.get("dem"):
        corrected += f", by {geocoding['dem']}"
    elif corrected == "no" and geocoding.get("height_m") is not None:
        corrected += f", at {geocoding['height_m']:.0f} m"
    return f"{method}, warped to {name}", fit, corrected


def _many(count: int, thing: str) -> str:
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def _table(
    head: Sequence[str], rows: Iterable[Sequence[Any]], rows_most: int | None = _ROWS
) -> Iterator[str]:
    """Yield a Markdown table; numbers to the right, and what is over `rows_most` as a count."""
    rows = list(rows)
    numeric = [
        bool(rows) and all(isinstance(row[i], int) or hasattr(row[i], "dtype") for row in rows)
        for i in range(len(head))
    ]
    yield _row(head)
    yield _row(["---:" if right else "---" for right in numeric])
    for row in rows[:rows_most]:
        yield _row([f"{value:,}" if right else value for value, right in zip(row, numeric, strict=True)])
    if rows_most is not None and len(rows) > rows_most:
        yield _row([f"and {len(rows) - rows_most:,} more", *[""] * (len(head) - 1)])
    yield ""


def _row(cells: Iterable[Any]) -> str:
    texts = (" ".join(str(cell).split()).replace("|", "\\|") for cell in cells)
    return f"| {' | '.join(texts)} |"
