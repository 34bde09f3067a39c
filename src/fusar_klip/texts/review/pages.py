"""Review pages: a sample of tiles with image, position and fields, judged by keyboard, offline.

A page is self-contained. Texts, names and images are JSON data in it and are never parsed as HTML. A large
sample is split into several pages of a size that browsers handle; experts can distribute them among
themselves.
"""

import hashlib
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pyarrow.compute as pc
from PIL import Image, ImageDraw

from fusar_klip import __version__
from fusar_klip.catalog import described_versions, open_texts, read_tiles
from fusar_klip.errors import DatasetError, SettingsError
from fusar_klip.files import sha256, write_bytes
from fusar_klip.geo.gazetteer import nearest, places
from fusar_klip.progress import track
from fusar_klip.texts.html_pages import png_url, render, script_json, tile_url
from fusar_klip.texts.review.accuracy import ANSWERS_FORMAT

TILES_PER_PAGE = 200
"""At about 130 kB a tile, a page has about 25 MB."""
_IMAGE_PX = 768
_NEARBY_KM = 30.0
_TEMPLATES = Path(__file__).parent / "templates"
_TILE_COLUMNS = (
    *("tile_id", "scale", "path", "platform", "band", "polarization", "gsd_m", "extent_m", "width", "height"),
    *("lon", "lat", "place", "country", "look_side", "orbit_direction", "incidence_deg", "acquired"),
)


@dataclass(frozen=True)
class ReviewPages:
    """Result of `make_pages`.

    Attributes:
        dataset: The data set's folder.
        texts: The text version to review.
        pages: The pages' files.
        tiles: Sampled tiles.
        of: Tiles that have texts.
        seed: Seed of the sample.
    """

    dataset: str
    texts: str
    pages: list[str]
    tiles: int
    of: int
    seed: int


def make_pages(
    dataset: Path,
    *,
    fraction: float = 0.02,
    seed: int = 0,
    version: str | None = None,
    out: Path | None = None,
) -> ReviewPages:
    """Write the review pages of a random sample of the tiles that have texts.

    Args:
        dataset: The data set's folder.
        fraction: Share of the tiles, 0 < fraction <= 1; the paper's is 0.02.
        seed: The same seed gives the same sample.
        version: The text version; None: the newest.
        out: The page's file; None: `review.html` in the data set. Further pages are numbered.

    Raises:
        SettingsError: The fraction is out of range.
        DatasetError: There is no data set, no text, or a tile cannot be read.
    """
    if not 0 < fraction <= 1:
        raise SettingsError(f"--fraction is a share over 0 and up to 1, such as 0.02, not {fraction:g}")
    version = version or described_versions(dataset)[-1]
    out = out or dataset / "review.html"
    sample = sample_tiles(dataset, version, fraction, seed)
    whole = len(sample_tiles(dataset, version, 1.0, seed))
    facts = _facts_by_tile(dataset, set(sample))
    digest = sha256(dataset / "texts" / f"{version}.parquet")
    parts = [sample[start : start + TILES_PER_PAGE] for start in range(0, len(sample), TILES_PER_PAGE)]
    written = []
    for number, part in enumerate(parts, start=1):
        path = out if number == 1 else out.with_name(f"{out.stem}-{number}{out.suffix}")
        about = {
            "format": ANSWERS_FORMAT,
            "dataset": dataset.resolve().name,
            "texts": version,
            "texts_sha256": digest,
            "seed": seed,
            "part": f"{number} of {len(parts)}",
            "sample": part,
        }
        texts = _texts(dataset, version, part)
        data = about | {
            "tiles": [
                _tile(dataset, tile_id, facts[tile_id], texts[tile_id])
                for tile_id in track(part, "writing the review", len(part))
            ]
        }
        write_bytes(path, _render(data).encode())
        written.append(str(path))
    return ReviewPages(str(dataset), version, written, len(sample), whole, seed)


def sample_tiles(dataset: Path, version: str, fraction: float, seed: int) -> list[str]:
    """Return the ids of the sampled tiles in the order of the pages; at least one.

    Tiles are ordered by a hash of seed and id, and the first ones are taken. A larger fraction contains a
    smaller one, and the order does not depend on scenes.

    Args:
        dataset: The data set's folder.
        version: The text version.
        fraction: Share of the tiles with texts, 0 < fraction <= 1.
        seed: The same seed samples the same tiles.

    Raises:
        DatasetError: There is no such version, or it holds no text.
    """
    rows = open_texts(dataset, version).to_table(["tile_id"], filter=pc.field("verdict") != "noise")
    tile_ids = rows["tile_id"].unique().to_pylist()
    if not tile_ids:
        raise DatasetError(f"the texts {version} of {dataset} are empty: describe the data set again")
    count = max(1, math.ceil(fraction * len(tile_ids) - 1e-9))
    ordered = sorted(tile_ids, key=lambda tile_id: hashlib.sha256(f"{seed}:{tile_id}".encode()).digest())
    return ordered[:count]


def _texts(dataset: Path, version: str, tile_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    wanted = pc.field("tile_id").isin(list(tile_ids)) & (pc.field("verdict") != "noise")
    rows = open_texts(dataset, version).to_table(["tile_id", "task", "field", "text"], filter=wanted)
    found: dict[str, dict[str, Any]] = {}
    for row in rows.to_pylist():
        text = found.setdefault(row["tile_id"], {"task": row["task"], "fields": []})
        text["fields"].append([row["field"], row["text"]])
    return found


def _tile(dataset: Path, tile_id: str, known: Mapping[str, Any], text: Mapping[str, Any]) -> dict[str, Any]:
    lon, lat = known["lon"], known["lat"]
    return {
        "id": tile_id,
        "task": text["task"],
        "fields": text["fields"],
        "image": tile_url(dataset / known["path"], _IMAGE_PX),
        "side_m": known["extent_m"],
        "lon": lon,
        "lat": lat,
        "where": ", ".join(str(part) for part in (known["place"], known["country"]) if part),
        "facts": _facts(known),
        "nearby": [] if lon is None or lat is None else _nearby(lon, lat),
    }


def _facts_by_tile(dataset: Path, tile_ids: set[str]) -> dict[str, dict[str, Any]]:
    """Return the catalog's rows of some tiles, {tile_id: {column: value}}; None = not known."""
    rows = read_tiles(dataset, _TILE_COLUMNS)
    records = cast(list[dict[str, Any]], rows[rows["tile_id"].isin(tile_ids)].to_dict("records"))
    return {
        row["tile_id"]: {key: None if pd.isna(value) else value for key, value in row.items()}
        for row in records
    }


def _facts(known: Mapping[str, Any]) -> list[str]:
    """Return short phrases about sensor, scale, spacing, geometry and date of a tile."""
    sensor = " ".join(str(known[key]) for key in ("platform", "band", "polarization") if known[key])
    look = " ".join(str(known[key]) for key in ("orbit_direction",) if known[key])
    if known["look_side"]:
        look = f"{look}, looks {known['look_side']}" if look else f"looks {known['look_side']}"
    facts = [
        sensor,
        f"{known['scale']} tile, {known['width']} × {known['height']} px",
        f"{known['gsd_m']:.3g} m spacing" if known["gsd_m"] else "spacing not known",
        look,
        f"{known['incidence_deg']:.0f}° incidence" if known["incidence_deg"] else "",
        f"{known['acquired']:%Y-%m-%d}" if known["acquired"] else "",
    ]
    return [fact for fact in facts if fact]


def _nearby(lon: float, lat: float) -> list[dict[str, Any]]:
    """Return nearby airports, ports and cities for the small map: kind, name, km to the east and north."""
    found = []
    for kind in ("airport", "port", "city"):
        for neighbour in nearest(kind, lon, lat, count=4, within_km=_NEARBY_KM):
            bearing = np.radians(neighbour.bearing_deg)
            found.append(
                {
                    "kind": kind,
                    "name": neighbour.place.name,
                    "east_km": round(float(neighbour.distance_km * np.sin(bearing)), 3),
                    "north_km": round(float(neighbour.distance_km * np.cos(bearing)), 3),
                }
            )
    return found


def world_map() -> str:
    """Return a map of the world as a data URL (720 x 300 PNG, 84 N to 66 S): a dot for each city.

    No coastline data is available offline; cities outline the continents well enough to locate a tile.
    """
    image = Image.new("LA", (720, 300), (0, 0))
    draw = ImageDraw.Draw(image)
    for city in places("city"):
        x, y = (city.lon + 180) * 2, (84 - city.lat) * 2
        draw.rectangle([x - 0.6, y - 0.6, x + 0.6, y + 0.6], fill=(128, 150))
    encoded = io.BytesIO()
    image.save(encoded, "PNG", optimize=True)
    return png_url(encoded.getvalue())


def _render(data: Mapping[str, Any]) -> str:
    return render(
        _TEMPLATES / "review.html.j2",
        title=f"Review of {data['dataset']}, texts {data['texts']}",
        style=(_TEMPLATES / "review.css").read_text(encoding="utf-8"),
        script=(_TEMPLATES / "review.js").read_text(encoding="utf-8"),
        data=script_json(data),
        world=world_map(),
        version=__version__,
    )
