"""The catalog of a data set: `tiles.parquet`, `texts/vNNN.parquet` and `dataset.json`.

Holds the schemas, and reads and writes them atomically. It makes no tile and no text, and needs neither
rasterio nor torch nor, except for footprints, geopandas.
"""

import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import pandas as pd
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from fusar_klip import __version__
from fusar_klip.errors import DatasetError
from fusar_klip.files import replaced, write_json

if TYPE_CHECKING:
    import geopandas as gpd

FORMAT_VERSION = 1
"""Of `dataset.json` and every Parquet file: new columns leave it as it is, a changed meaning raises it."""

Scale = Literal["large", "medium", "small"]
SCALES: tuple[Scale, ...] = get_args(Scale)
Split = Literal["train", "val", "test"]
Task = Literal["ground_target", "marine_target", "terrain"]
Verdict = Literal["original", "kept", "noise", "reconstructed"]

SceneType = Literal["airport", "port", "urban", "water", "industrial", "road_network"]
"""The paper's scene types (3.1): a closed list."""
Landform = Literal["water", "shore", "open_land", "mixed", "built_up"]
"""Five classes of land that one channel of backscatter can tell; `tiles.landform` says what each means.

The paper counts five landform types (section 1) and does not name them."""

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
FIELDS: dict[Task, tuple[str, ...]] = {
    "ground_target": TARGET_FIELDS,
    "marine_target": TARGET_FIELDS,
    "terrain": TERRAIN_FIELDS,
}
"""The fields of a text by its task, in order. Prompts, rules and checks take names and number from here."""

FEATURES = (
    "mean",
    "std",
    "cv",
    "skewness",
    "kurtosis",
    "entropy",
    "dynamic_range",
    "enl",
    "edge_density",
    "striping",
    "nodata_fraction",
    "glcm_contrast",
    "glcm_dissimilarity",
    "glcm_homogeneity",
    "glcm_energy",
    "glcm_correlation",
    "glcm_entropy",
)
"""Statistics and texture of a tile's valid pixels (paper 3.1, step 5), a column each."""

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
        ("density", pa.float64()),
        ("water_fraction", pa.float64()),
        ("dense", pa.bool_()),
        *((name, pa.float64()) for name in FEATURES),
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
# Readers skip whole groups by tile_id, scene_id and bbox, and hold one at a time; rows are in scene order.
_ROWS_PER_GROUP = 16_384


def read_manifest(dataset: Path) -> dict[str, Any]:
    """Return `dataset.json`.

    Raises:
        DatasetError: The folder is no data set, its build has not ended, or a newer version made it.
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
    if not isinstance(manifest, dict):
        raise DatasetError(f"{path} is no manifest of a data set: build the data set again")
    _refuse_newer(dataset, manifest.get("format_version", 0), manifest.get("made_by"))
    return manifest


def write_manifest(dataset: Path, manifest: Mapping[str, Any]) -> None:
    """Write `dataset.json`, the last step of every build."""
    write_json(dataset / "dataset.json", manifest)


def open_tiles(dataset: Path) -> pads.Dataset:
    """Open `tiles.parquet` for reading part by part: `TILE_SCHEMA`, further columns, and `geometry` as WKB.

    Rows are ordered by tile_id. A nullable column that an older version did not write is null.

    Raises:
        DatasetError: The data set is missing, unfinished, damaged, or made by a newer version.
    """
    read_manifest(dataset)
    path = dataset / "tiles.parquet"
    with _readable(path, "build"):
        there = pq.read_schema(path)
        _refuse_newer(path, **_about(there))
        if lost := [f.name for f in TILE_SCHEMA if not f.nullable and f.name not in there.names]:
            raise DatasetError(f"{path} has no column {', '.join(lost)}: build the data set again")
        further = [there.field(n) for n in there.names if n not in (*TILE_SCHEMA.names, "geometry", "bbox")]
        return pads.dataset(path, pa.schema([*TILE_SCHEMA, *further, ("geometry", pa.binary())]))


def read_tiles(dataset: Path, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Return the catalog's rows, ordered by tile_id.

    Args:
        dataset: The data set's folder.
        columns: Names of columns, `geometry` (WKB) among them if it is wanted; all but that by default.

    Raises:
        DatasetError: As `open_tiles`, or there is no such column.
    """
    tiles, path = open_tiles(dataset), dataset / "tiles.parquet"
    known = tiles.schema.names
    wanted = [name for name in known if name != "geometry"] if columns is None else list(columns)
    if unknown := sorted(set(wanted) - set(known)):
        raise DatasetError(f"{path} has no column {', '.join(unknown)}: build the data set again")
    with _readable(path, "build"):
        frame: pd.DataFrame = tiles.to_table(wanted).to_pandas()
    return frame


def read_footprints(dataset: Path) -> "gpd.GeoDataFrame":
    """Return the catalog's rows with their footprints in EPSG:4326 (null for a tile without coordinates).

    Raises:
        DatasetError: As `open_tiles`.
    """
    import geopandas as gpd

    tiles = open_tiles(dataset)
    with _readable(dataset / "tiles.parquet", "build"):
        frame = tiles.to_table().to_pandas()
    footprints = gpd.GeoSeries.from_wkb(frame.pop("geometry"), crs="EPSG:4326")
    return gpd.GeoDataFrame(frame, geometry=footprints)


def write_tiles(dataset: Path, tiles: "gpd.GeoDataFrame") -> None:
    """Write `tiles.parquet` (GeoParquet 1.1 with a bbox column), ordered by tile_id.

    Args:
        dataset: The data set's folder.
        tiles: One row per tile: the columns of `TILE_SCHEMA`, and the footprints in EPSG:4326: a polygon, a
            multipolygon (cut at the antimeridian), or null for a tile without coordinates.
    """
    expected = {*TILE_SCHEMA.names, "geometry"}
    assert set(tiles.columns) == expected, set(tiles.columns) ^ expected
    tiles = tiles.sort_values("tile_id")
    encoded = io.BytesIO()
    tiles[["geometry"]].to_parquet(encoded, index=False, schema_version="1.1.0", write_covering_bbox=True)
    footprints = pq.read_table(encoded)
    # Not geopandas's encoding of the other columns: it gives a column without any value the type null.
    table = pa.Table.from_pandas(tiles[TILE_SCHEMA.names], schema=TILE_SCHEMA, preserve_index=False)
    for name in ("geometry", "bbox"):
        table = table.append_column(footprints.schema.field(name), footprints[name])
    metadata = {b"geo": footprints.schema.metadata[b"geo"], **_metadata()}
    with replaced(dataset / "tiles.parquet") as partial:
        pq.write_table(
            table.replace_schema_metadata(metadata),
            partial,
            compression="zstd",
            row_group_size=_ROWS_PER_GROUP,
        )


def text_versions(dataset: Path) -> list[str]:
    """Return the names of the text versions ("v000", ...), oldest first."""
    return sorted(p.stem for p in (dataset / "texts").glob("v*.parquet") if re.fullmatch(r"v\d{3,}", p.stem))


def described_versions(dataset: Path) -> list[str]:
    """Return `text_versions`, at least one.

    Raises:
        DatasetError: There is no data set, or it has no texts.
    """
    read_manifest(dataset)
    if versions := text_versions(dataset):
        return versions
    raise DatasetError(f"{dataset} has no texts: make them with fusar-klip describe {dataset}")


def open_texts(dataset: Path, version: str = "v000") -> pads.Dataset:
    """Open a text version for reading part by part: `TEXT_SCHEMA`, in file order, noise included.

    Raises:
        DatasetError: There is no such version, it cannot be read, or a newer version made it.
    """
    read_manifest(dataset)
    path = dataset / "texts" / f"{version}.parquet"
    if not path.is_file():
        there = ", ".join(text_versions(dataset)) or "none; make them with fusar-klip describe"
        raise DatasetError(f"{dataset} has no texts {version} (there: {there})")
    with _readable(path, "describe"):
        _refuse_newer(path, **_about(pq.read_schema(path)))
        return pads.dataset(path, TEXT_SCHEMA)


def read_texts(dataset: Path, version: str = "v000", *, in_use: bool = True) -> pd.DataFrame:
    """Return the rows of a text version in file order (tile_id, then the schema's order of fields).

    Args:
        dataset: The data set's folder.
        version: The name of the version.
        in_use: Leave out the rows whose verdict is `noise`.

    Raises:
        DatasetError: As `open_texts`.
    """
    opened = open_texts(dataset, version)
    with _readable(dataset / "texts" / f"{version}.parquet", "describe"):
        texts: pd.DataFrame = opened.to_table().to_pandas()
    return texts[texts["verdict"] != "noise"].reset_index(drop=True) if in_use else texts


def write_texts(
    dataset: Path,
    version: str,
    texts: pd.DataFrame | Iterable[pd.DataFrame],
    *,
    parent: str | None,
    maker: Mapping[str, Any],
) -> Path:
    """Write a whole text version, and return its path. A version that exists is never edited.

    Args:
        dataset: The data set's folder.
        version: The new version's name, such as "v000".
        texts: The columns of `TEXT_SCHEMA`, rows in any order; or, where a whole version is too much to hold,
            such frames one after the other, each with the tiles that follow those of the frame before it.
        parent: The version that this one was made from.
        maker: What made it: verb, provider, settings; kept in the file's metadata.

    Raises:
        DatasetError: The version exists already.
    """
    path = dataset / "texts" / f"{version}.parquet"
    if path.exists():
        raise DatasetError(f"{path} exists, and a text version is never edited: give another data set")
    schema = TEXT_SCHEMA.with_metadata(_metadata(parent=parent, maker=dict(maker)))
    with replaced(path) as partial, pq.ParquetWriter(partial, schema, compression="zstd") as writer:
        for part in [texts] if isinstance(texts, pd.DataFrame) else texts:
            places = [
                FIELDS[task].index(field) for task, field in zip(part["task"], part["field"], strict=True)
            ]
            ordered = part[TEXT_SCHEMA.names].assign(place=places).sort_values(["tile_id", "place"])
            table = pa.Table.from_pandas(ordered, schema=TEXT_SCHEMA, preserve_index=False)
            # A schema's metadata is compared too.
            writer.write_table(table.cast(schema), row_group_size=_ROWS_PER_GROUP)
    return path


def read_text_metadata(dataset: Path, version: str) -> dict[str, Any]:
    """Return {"parent": ..., "maker": ...} of a text version."""
    about = _about(pq.read_schema(dataset / "texts" / f"{version}.parquet"))
    return {"parent": about.get("parent"), "maker": about.get("maker")}


def segments_by_tile(texts: pd.DataFrame) -> dict[str, list[str]]:
    """Return each tile's segments, "Field: text", in the order of the rows: {tile_id: [segment, ...]}.

    This is how a text is spelled everywhere: in pretraining, in retrieval and in search results.
    """
    segments: dict[str, list[str]] = {}
    for tile_id, field, text in zip(texts["tile_id"], texts["field"], texts["text"], strict=True):
        segments.setdefault(tile_id, []).append(f"{field}: {text}")
    return segments


def _metadata(**about: Any) -> dict[bytes, bytes]:
    about = {"format_version": FORMAT_VERSION, "made_by": f"fusar-klip {__version__}", **about}
    return {_METADATA_KEY: json.dumps(about, sort_keys=True).encode()}


def _about(schema: pa.Schema) -> dict[str, Any]:
    about: dict[str, Any] = json.loads((schema.metadata or {}).get(_METADATA_KEY, b"{}"))
    return about


def _refuse_newer(path: Path, format_version: int = 0, made_by: str | None = None, **_about: Any) -> None:
    if format_version > FORMAT_VERSION:
        raise DatasetError(f"{path} was made by a newer version ({made_by}): upgrade fusar-klip")


@contextmanager
def _readable(path: Path, verb: str) -> Iterator[None]:
    """Turn what Parquet readers raise on a damaged file, or one of a newer format, into one sentence."""
    try:
        yield
    except (OSError, ValueError, pa.ArrowException) as error:
        what = " ".join(str(error).split())
        raise DatasetError(f"{path} cannot be read ({what}): {verb} the data set again") from error
