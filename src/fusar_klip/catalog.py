"""The catalog of a data set: `tiles.parquet`, `texts/vNNN.parquet` and `dataset.json`.

Holds the schemas, and reads and writes them atomically. It makes no tile and no text, and needs neither
rasterio nor torch nor, except for the frame handed to `write_tiles`, geopandas.
"""

import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from fusar_klip.errors import DatasetError
from fusar_klip.files import replaced, write_json

if TYPE_CHECKING:
    import geopandas as gpd

Scale = Literal["large", "medium", "small"]
SCALES: tuple[Scale, ...] = get_args(Scale)
Split = Literal["train", "val", "test"]
Task = Literal["ground_target", "marine_target", "terrain"]
Verdict = Literal["original", "kept", "noise", "reconstructed"]

TARGET_FIELDS = ("Count", "Location", "Feature", "Size", "Category", "Distribution", "Region", "Environment")
TERRAIN_FIELDS = (
    "Terrain",
    "Functionality",
    "Location",
    "Layout",
    "Boundary",
    "Building",
    "Road",
    "Water",
)
FIELDS: Mapping[Task, tuple[str, ...]] = {
    "ground_target": TARGET_FIELDS,
    "marine_target": TARGET_FIELDS,
    "terrain": TERRAIN_FIELDS,
}

TILE_SCHEMA = pa.schema(
    [
        pa.field("tile_id", pa.string(), nullable=False),
        pa.field("scene_id", pa.string(), nullable=False),
        pa.field("ground_id", pa.string(), nullable=False),
        pa.field("scale", pa.string(), nullable=False),
        ("parent_id", pa.string()),
        pa.field("path", pa.string(), nullable=False),
        ("platform", pa.string()),
        ("band", pa.string()),
        ("polarization", pa.string()),
        ("mode", pa.string()),
        ("product_type", pa.string()),
        ("orbit_direction", pa.string()),
        ("look_side", pa.string()),
        ("incidence_deg", pa.float64()),
        ("looks", pa.float64()),
        ("gsd_m", pa.float64()),
        ("extent_m", pa.float64()),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        ("crs", pa.string()),
        ("transform", pa.list_(pa.float64())),
        ("lon", pa.float64()),
        ("lat", pa.float64()),
        ("place", pa.string()),
        ("country", pa.string()),
        ("scene_type", pa.string()),
        ("landform", pa.string()),
        ("acquired", pa.timestamp("us", tz="UTC")),
        pa.field("split", pa.string(), nullable=False),
        pa.field("valid_fraction", pa.float64(), nullable=False),
        ("quality", pa.float64()),
        pa.field("kept", pa.bool_(), nullable=False),
    ]
)
"""Columns of `tiles.parquet` without its geometry, in order. What is not known is null."""

TEXT_SCHEMA = pa.schema(
    [
        pa.field("tile_id", pa.string(), nullable=False),
        pa.field("task", pa.string(), nullable=False),
        pa.field("field", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("prompt_version", pa.string(), nullable=False),
        pa.field("verdict", pa.string(), nullable=False),
        ("delta_itc", pa.float64()),
        ("delta_itm", pa.float64()),
        ("itm_score", pa.float64()),
        ("previous", pa.string()),
    ]
)
"""Columns of `texts/vNNN.parquet`, in order; one row per tile and field."""

_METADATA_KEY = b"fusar_klip"


def read_manifest(dataset: Path) -> dict[str, Any]:
    """Return `dataset.json`.

    Raises:
        DatasetError: The folder is no data set, or its build has not ended.
    """
    path = dataset / "dataset.json"
    if not dataset.is_dir():
        raise DatasetError(f"no data set at {dataset}: make one with fusar-klip build SCENE --out {dataset}")
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DatasetError(
            f"{dataset} has no dataset.json, so its build has not ended: run the same fusar-klip build again"
        ) from None
    except ValueError as error:
        raise DatasetError(f"{path} is no valid JSON ({error}): build the data set again") from error
    return manifest


def write_manifest(dataset: Path, manifest: Mapping[str, Any]) -> None:
    """Write `dataset.json`, the last step of every build."""
    write_json(dataset / "dataset.json", manifest)


def read_tiles(dataset: Path, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Return the catalog's rows without their geometry, ordered by tile_id.

    Use `geopandas.read_parquet(dataset / "tiles.parquet")` for the footprints.

    Raises:
        DatasetError: The data set is missing, unfinished, or has no such column.
    """
    read_manifest(dataset)
    path = dataset / "tiles.parquet"
    try:
        known = pq.read_schema(path).names
        wanted = list(columns) if columns is not None else [c for c in known if c not in ("geometry", "bbox")]
        tiles: pd.DataFrame = pq.read_table(path, columns=_known(wanted, known, path)).to_pandas()
    except (OSError, pa.ArrowInvalid) as error:
        raise DatasetError(f"{path} cannot be read ({error}): build the data set again") from error
    return tiles


def write_tiles(dataset: Path, tiles: "gpd.GeoDataFrame", features: Sequence[str] = ()) -> None:
    """Write `tiles.parquet` (GeoParquet 1.1 with a bbox column), ordered by tile_id.

    Args:
        dataset: The data set's folder.
        tiles: One row per tile: the columns of `TILE_SCHEMA`, then `features`, and the footprints in
            EPSG:4326 (null for a tile without coordinates).
        features: Names of float64 columns of texture and statistics.
    """
    expected = [*TILE_SCHEMA.names, *features]
    assert set(tiles.columns) == {*expected, "geometry"}, set(tiles.columns) ^ {*expected, "geometry"}
    frame = tiles[[*expected, "geometry"]].sort_values("tile_id").reset_index(drop=True)
    encoded = io.BytesIO()
    frame.to_parquet(encoded, schema_version="1.1.0", write_covering_bbox=True)
    # geopandas writes a column without any value as of type null; the schema's types go in here.
    table = pq.read_table(encoded)
    geo = {b"geo": table.schema.metadata[b"geo"]}
    fields = [*TILE_SCHEMA, *(pa.field(name, pa.float64()) for name in features)]
    fields += [table.schema.field(name) for name in ("geometry", "bbox")]
    table = table.select([field.name for field in fields]).cast(pa.schema(fields))
    with replaced(dataset / "tiles.parquet") as partial:
        pq.write_table(table.replace_schema_metadata(geo), partial, compression="zstd")


def text_versions(dataset: Path) -> list[str]:
    """Return the names of the text versions ("v000", ...), oldest first."""
    return sorted(p.stem for p in (dataset / "texts").glob("v*.parquet") if re.fullmatch(r"v\d{3,}", p.stem))


def read_texts(dataset: Path, version: str = "v000", *, in_use: bool = True) -> pd.DataFrame:
    """Return the rows of a text version in file order (tile_id, then the schema's order of fields).

    Args:
        dataset: The data set's folder.
        version: The name of the version.
        in_use: Leave out the rows whose verdict is `noise`.

    Raises:
        DatasetError: There is no such version, or it cannot be read.
    """
    read_manifest(dataset)
    path = dataset / "texts" / f"{version}.parquet"
    if not path.is_file():
        there = ", ".join(text_versions(dataset)) or "none; make them with fusar-klip describe"
        raise DatasetError(f"{dataset} has no texts {version} (there: {there})")
    try:
        texts: pd.DataFrame = pq.read_table(path, schema=TEXT_SCHEMA).to_pandas()
    except (OSError, pa.ArrowInvalid) as error:
        raise DatasetError(f"{path} cannot be read ({error}): describe the data set again") from error
    return texts[texts["verdict"] != "noise"].reset_index(drop=True) if in_use else texts


def write_texts(
    dataset: Path, version: str, texts: pd.DataFrame, *, parent: str | None, maker: Mapping[str, Any]
) -> Path:
    """Write a whole text version, and return its path. A version that exists is never edited.

    Args:
        dataset: The data set's folder.
        version: The new version's name, such as "v000".
        texts: The columns of `TEXT_SCHEMA`, rows in any order.
        parent: The version that this one was made from.
        maker: What made it: verb, provider, settings; kept in the file's metadata.

    Raises:
        DatasetError: The version exists already.
    """
    path = dataset / "texts" / f"{version}.parquet"
    if path.exists():
        raise DatasetError(f"{path} exists, and a text version is never edited: give another data set")
    places = [FIELDS[task].index(field) for task, field in zip(texts["task"], texts["field"], strict=True)]
    ordered = texts[TEXT_SCHEMA.names].assign(place=places).sort_values(["tile_id", "place"])
    table = pa.Table.from_pandas(ordered, schema=TEXT_SCHEMA, preserve_index=False)
    about = json.dumps({"parent": parent, "maker": dict(maker)}, sort_keys=True).encode()
    with replaced(path) as partial:
        pq.write_table(table.replace_schema_metadata({_METADATA_KEY: about}), partial, compression="zstd")
    return path


def read_text_metadata(dataset: Path, version: str) -> dict[str, Any]:
    """Return {"parent": ..., "maker": ...} of a text version."""
    metadata = pq.read_schema(dataset / "texts" / f"{version}.parquet").metadata
    about: dict[str, Any] = json.loads(metadata[_METADATA_KEY])
    return about


def segments_by_tile(texts: pd.DataFrame) -> dict[str, list[str]]:
    """Return each tile's segments, "Field: text", in the order of the rows: {tile_id: [segment, ...]}.

    This is how a text is spelled everywhere: in pretraining, in retrieval and in search results.
    """
    segments: dict[str, list[str]] = {}
    for tile_id, field, text in zip(texts["tile_id"], texts["field"], texts["text"], strict=True):
        segments.setdefault(tile_id, []).append(f"{field}: {text}")
    return segments


def _known(wanted: Iterable[str], known: Sequence[str], path: Path) -> list[str]:
    wanted = list(wanted)
    if missing := sorted(set(wanted) - set(known)):
        raise DatasetError(f"{path} has no column {', '.join(missing)}: build the data set again")
    return wanted
