"""Template sentences from annotations: the baseline of the paper's table 8 and figure 10.

Following RemoteCLIP's box-to-caption rules and SARLANG, fixed sentences state number, category, position and
size of the annotated objects. Fields about which the annotations hold nothing say so. No pixel is read.

Annotations are GeoJSON (EPSG:4326, or the CRS that it names), any other vector file that GDAL opens, or COCO.
A file with the name of a scene, such as the simulator's `truth/SCENE.geojson`, belongs to that scene alone;
any other to every tile it intersects.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from affine import Affine
from pyproj.exceptions import ProjError

from fusar_klip.catalog import TARGET_FIELDS, TERRAIN_FIELDS, Task, read_manifest, read_tiles
from fusar_klip.errors import DatasetError, SettingsError
from fusar_klip.texts.phrases import counted, listed, number, region_of, regions_with_counts, sizes

PROMPT_VERSION = "template-1"
NOT_ANNOTATED = "not told by the annotations"

_CATEGORY_KEYS = ("category", "class", "class_name", "label", "name", "type")
_AFLOAT = ("ship", "vessel", "boat", "tanker", "ferry", "barge", "cargo", "carrier", "frigate", "destroyer")
_SAME_PLURAL = ("aircraft", "spacecraft", "watercraft", "hovercraft")


@dataclass(frozen=True)
class TemplateText:
    """The text of one tile: its task, and its fields in the order of `catalog.FIELDS`."""

    tile_id: str
    task: Task
    fields: dict[str, str]


@dataclass(frozen=True)
class Annotation:
    """One annotated object in a tile.

    Attributes:
        row: Row of its centre in pixels from the tile's upper edge.
        col: Column of its centre in pixels from the tile's left edge.
        category: Such as "ship".
        kind: Its finer type, such as "container ship"; None if the annotation has none.
        state: Its state, such as "moored"; None if the annotation has none.
        length_m: Length in metres; None if neither the annotation nor the ground spacing gives it.
        width_m: Width in metres; None also for an axis-aligned box.
    """

    row: float
    col: float
    category: str
    kind: str | None = None
    state: str | None = None
    length_m: float | None = None
    width_m: float | None = None


@dataclass(frozen=True)
class TileFrame:
    """Position and size of a tile; None = not known."""

    tile_id: str
    scene_id: str
    width: int
    height: int
    crs: str | None
    to_pixels: Affine | None
    """Converts a position in the CRS to column and row."""
    gsd_m: float | None

    def holds(self, annotation: Annotation) -> bool:
        """Return whether the centre of an annotated object lies in the tile."""
        return 0 <= annotation.row < self.height and 0 <= annotation.col < self.width


def template_texts(dataset: Path, annotations: Path) -> Iterator[TemplateText]:
    """Yield a text for every kept tile, ordered by tile_id.

    Args:
        dataset: The data set's folder.
        annotations: A GeoJSON or COCO file, or a folder of GeoJSON files.

    Raises:
        DatasetError: There is no finished data set, or it holds no kept tile.
        SettingsError: The annotations are missing, cannot be read, or fit no tile of the data set.
    """
    tiles = kept_tiles(dataset)
    shown = annotations_by_tile(dataset, tiles, annotations)
    if not shown:
        raise SettingsError(f"no annotation of {annotations} lies in a tile of {dataset}: give its own file")
    for tile in tiles:
        yield compose_template(tile.tile_id, shown.get(tile.tile_id, []), tile.height, tile.width)


def kept_tiles(dataset: Path) -> list[TileFrame]:
    """Return the kept tiles of a data set, ordered by tile_id.

    Raises:
        DatasetError: There is no finished data set, or it holds no kept tile.
    """
    columns = ["tile_id", "scene_id", "width", "height", "crs", "transform", "gsd_m", "kept"]
    rows = read_tiles(dataset, columns)
    rows = rows[rows["kept"]].sort_values("tile_id")
    if rows.empty:
        raise DatasetError(f"{dataset} holds no kept tile: build it from scenes with more valid pixels")
    return [
        TileFrame(
            tile_id=str(row["tile_id"]),
            scene_id=str(row["scene_id"]),
            width=int(row["width"]),
            height=int(row["height"]),
            crs=None if pd.isna(row["crs"]) else str(row["crs"]),
            to_pixels=None if row["transform"] is None else ~Affine(*row["transform"]),
            gsd_m=None if pd.isna(row["gsd_m"]) else float(row["gsd_m"]),
        )
        for row in cast(list[dict[str, Any]], rows.to_dict("records"))
    ]


def compose_template(
    tile_id: str, annotations: Sequence[Annotation], height: int, width: int
) -> TemplateText:
    """Compose the template sentences of one tile of (height, width) pixels."""
    if not annotations:
        fields = dict.fromkeys(TERRAIN_FIELDS, NOT_ANNOTATED)
        fields["Terrain"] = "no annotated object in this SAR image"
        return TemplateText(tile_id, "terrain", _as_sentences(fields))
    categories = Counter(a.category for a in annotations)
    ordered = sorted(categories.items(), key=lambda item: (-item[1], item[0]))
    listing = listed([counted(count, *_forms(category)) for category, count in ordered])
    regions = [region_of(a.row, a.col, height, width) for a in annotations]
    verb = "is" if len(annotations) == 1 else "are"
    kinds = Counter(a.kind or a.category for a in annotations)
    fields = {
        "Count": f"there {verb} {listing} in this SAR image",
        "Location": f"{listing} {regions_with_counts(regions)}"
        if len(set(regions)) == 1
        else regions_with_counts(regions),
        "Feature": NOT_ANNOTATED,
        "Size": _size(annotations),
        "Category": listed([counted(n, *_forms(kind)) for kind, n in sorted(kinds.items())]),
        "Distribution": _distribution(regions),
        "Region": _states(annotations),
        "Environment": NOT_ANNOTATED,
    }
    assert tuple(fields) == TARGET_FIELDS
    afloat = sum(n for category, n in categories.items() if any(word in category for word in _AFLOAT))
    task: Task = "marine_target" if 2 * afloat >= len(annotations) else "ground_target"
    return TemplateText(tile_id, task, _as_sentences(fields))


def annotations_by_tile(dataset: Path, tiles: Sequence[TileFrame], path: Path) -> dict[str, list[Annotation]]:
    """Return the annotated objects whose centre lies in a tile, by tile; tiles without any are left out.

    Args:
        dataset: The data set's folder.
        tiles: Its tiles.
        path: A GeoJSON or COCO file, or a folder of GeoJSON files.

    Raises:
        SettingsError: The annotations are missing or cannot be read.
    """
    files = [path] if path.is_file() else sorted(path.glob("*.geojson"))
    if not files:
        what = "holds no *.geojson" if path.is_dir() else "is missing"
        raise SettingsError(
            f"--annotations {path} {what}: give a GeoJSON or COCO file, or a folder of GeoJSON"
        )
    found: dict[str, list[Annotation]] = {}
    for file in files:
        coco = _coco(file)
        placed = _from_coco(dataset, tiles, file, coco) if coco else _from_vectors(tiles, file)
        for tile_id, annotations in placed:
            found.setdefault(tile_id, []).extend(annotations)
    return found


def scene_of_file(tiles: Sequence[TileFrame], stem: str) -> str | None:
    """Return the scene that a file's stem names: `scene_id` is the stem of the scene's file and a hash."""
    return next((tile.scene_id for tile in tiles if tile.scene_id.rpartition("_")[0] == stem), None)


def _from_vectors(tiles: Sequence[TileFrame], file: Path) -> Iterator[tuple[str, list[Annotation]]]:
    try:
        features = gpd.read_file(file)
    except (RuntimeError, ValueError, OSError) as error:  # pyogrio's errors are RuntimeErrors
        raise SettingsError(f"{file} is no GeoJSON that can be read: give GeoJSON or COCO") from error
    if not isinstance(features, gpd.GeoDataFrame):
        raise SettingsError(f"{file} has no geometries: give GeoJSON with a feature for each object")
    features = features[~(features.geometry.isna() | features.geometry.is_empty)]
    features = features.set_crs(4326) if features.crs is None else features
    owner = scene_of_file(tiles, file.stem)
    by_crs: dict[str, list[TileFrame]] = {}
    for tile in tiles:
        if tile.crs is not None and owner in (None, tile.scene_id):
            by_crs.setdefault(tile.crs, []).append(tile)
    for crs, of_crs in by_crs.items():
        try:
            on_ground = features.to_crs(crs)
        except ProjError as error:
            raise SettingsError(f"{file} cannot be placed in {crs} ({error}): give another file") from error
        yield from _in_tiles(of_crs, on_ground)


def _in_tiles(
    tiles: Sequence[TileFrame], features: gpd.GeoDataFrame
) -> Iterator[tuple[str, list[Annotation]]]:
    """Find the features of each tile; all are in the same projected CRS."""
    centres = shapely.centroid(features.geometry.array)
    x, y = shapely.get_x(centres), shapely.get_y(centres)
    properties = features.drop(columns=features.geometry.name).to_dict("records")
    for tile in tiles:
        if tile.to_pixels is None:
            continue
        cols, rows = tile.to_pixels @ (x, y)
        # Coordinates that a distant projection makes infinite or NaN lie in no tile.
        inside = np.flatnonzero((cols >= 0) & (cols < tile.width) & (rows >= 0) & (rows < tile.height))
        if inside.size:
            yield (
                tile.tile_id,
                [
                    _annotation(rows[i], cols[i], properties[i], *_sides_m(features.geometry.iloc[i], tile))
                    for i in inside
                ],
            )


def _sides_m(outline: Any, tile: TileFrame) -> tuple[float | None, float | None]:
    """Return length and width of an outline's smallest rectangle on the ground, in metres."""
    rectangle = shapely.minimum_rotated_rectangle(outline)
    if tile.gsd_m is None or tile.to_pixels is None or rectangle.geom_type != "Polygon":
        return None, None
    corners = np.array(rectangle.exterior.coords)
    # Pixels per CRS unit, and so metres per CRS unit: in EPSG:3395 a unit is less than a metre.
    unit_m = tile.gsd_m * np.sqrt(abs(tile.to_pixels.determinant))
    sides = np.hypot(*np.diff(corners[:3], axis=0).T) * unit_m
    return float(sides.max()), float(sides.min())


def _coco(file: Path) -> dict[str, Any] | None:
    """Return the file's content if it is COCO, None if it is something else."""
    if file.suffix.lower() != ".json":
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise SettingsError(f"{file} is no valid JSON ({error}): give GeoJSON or COCO") from error
    if isinstance(content, dict) and {"images", "annotations", "categories"} <= content.keys():
        return content
    return None


def _from_coco(
    dataset: Path, tiles: Sequence[TileFrame], file: Path, coco: Mapping[str, Any]
) -> Iterator[tuple[str, list[Annotation]]]:
    """Place COCO's boxes: an image is named as a tile, or as a scene whose pixels the tiles keep."""
    warped = {s["scene_id"] for s in read_manifest(dataset).get("scenes", []) if s.get("warped")}
    for stem, boxes in _boxes_by_image(file, coco).items():
        scene_id = scene_of_file(tiles, stem)
        of_image = [tile for tile in tiles if stem == tile.tile_id or scene_id == tile.scene_id]
        to_scene = None
        if scene_id is not None:
            to_scene = _scene_pixels(of_image, file, scene_id, warped=scene_id in warped)
        for tile in of_image:
            left, top = 0.0, 0.0
            if to_scene is not None and tile.to_pixels is not None:
                corner = ~tile.to_pixels
                left, top = to_scene @ (corner.c, corner.f)
            inside = [a for a in (_of_box(box, left, top, tile.gsd_m) for box in boxes) if tile.holds(a)]
            if inside:
                yield tile.tile_id, inside


def _boxes_by_image(file: Path, coco: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Return COCO's annotations by the stem of their image file, with the name of their category."""
    try:
        categories = {c["id"]: str(c["name"]) for c in coco["categories"]}
        stems = {image["id"]: Path(image["file_name"]).stem for image in coco["images"]}
        boxes: dict[str, list[dict[str, Any]]] = {stem: [] for stem in stems.values()}
        for record in coco["annotations"]:
            x, y, width, height = map(float, record["bbox"])
            box = record | {"category": categories[record["category_id"]], "bbox": (x, y, width, height)}
            boxes[stems[record["image_id"]]].append(box)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SettingsError(f"{file} is no valid COCO ({error!r}): give GeoJSON or COCO") from error
    return boxes


def _scene_pixels(tiles: Sequence[TileFrame], file: Path, scene_id: str, *, warped: bool) -> Affine:
    """Return the transform from the CRS to the scene's pixels; the first tile starts at its corner."""
    first = [t.to_pixels for t in tiles if t.tile_id.endswith("_0000_0000") and t.to_pixels is not None]
    if warped or not first:
        raise SettingsError(
            f"{file} is in pixels of {scene_id}, which cannot be located in its tiles: give GeoJSON"
        )
    return first[0]


def _of_box(box: Mapping[str, Any], left: float, top: float, gsd_m: float | None) -> Annotation:
    x, y, width, height = box["bbox"]
    length_m = None if gsd_m is None else max(width, height) * gsd_m
    return _annotation(y + height / 2 - top, x + width / 2 - left, box, length_m, None)


def _annotation(
    row: float, col: float, properties: Mapping[str, Any], length_m: float | None, width_m: float | None
) -> Annotation:
    """Make an annotation from its properties; sizes in them take precedence over those of its outline."""
    words = {
        key: str(value).strip().replace("_", " ") for key, value in properties.items() if _has_value(value)
    }
    category = next((words[key].lower() for key in _CATEGORY_KEYS if words.get(key)), "object")
    stated_length, stated_width = (
        float(properties[key])
        if isinstance(properties.get(key), int | float) and _has_value(properties[key])
        else None
        for key in ("length_m", "width_m")
    )
    kind = words.get("type")
    return Annotation(
        row=float(row),
        col=float(col),
        category=category,
        kind=None if kind is None or kind.lower() == category else kind,
        state=words.get("state"),
        length_m=length_m if stated_length is None else stated_length,
        width_m=width_m if stated_length is None else stated_width,
    )


def _has_value(value: Any) -> bool:
    return isinstance(value, str | int | float) and not pd.isna(value)


def _forms(category: str) -> tuple[str, str]:
    """Return singular and plural of a category."""
    if category.endswith(_SAME_PLURAL):
        return category, category
    return category, f"{category}{'es' if category.endswith(('s', 'x', 'ch', 'sh')) else 's'}"


def _size(annotations: Sequence[Annotation]) -> str:
    lengths = [a.length_m for a in annotations if a.length_m]
    widths = [a.width_m for a in annotations if a.width_m]
    if not lengths:
        return NOT_ANNOTATED
    text = f"about {sizes(lengths, 1.0)} long"
    return f"{text}, {sizes(widths, 1.0)} wide" if widths else text


def _distribution(regions: Sequence[int]) -> str:
    if len(regions) == 1:
        return "a single object"
    parts = len(set(regions))
    return f"{number(len(regions))} objects in {number(parts)} of nine parts of the image"


def _states(annotations: Sequence[Annotation]) -> str:
    states = Counter(a.state for a in annotations if a.state)
    if not states:
        return NOT_ANNOTATED
    return listed([f"{number(count)} {state}" for state, count in sorted(states.items())])


def _as_sentences(fields: Mapping[str, str]) -> dict[str, str]:
    return {field: f"{text[:1].upper()}{text[1:]}." for field, text in fields.items()}
