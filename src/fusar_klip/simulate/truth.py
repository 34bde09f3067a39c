"""Ground truth of a simulated scene: COCO boxes in pixels, and polygons in EPSG:4326."""

from typing import Any

from pyproj import Transformer
from shapely import Polygon, box
from shapely.geometry import mapping
from shapely.geometry import polygon as polygons

from fusar_klip.simulate.layout import SimulatedTarget
from fusar_klip.simulate.scene import SimulatedScene

CATEGORIES = {"ship": 1, "aircraft": 2}
"""COCO category ids."""

_MIN_LENGTH_PX = 2.0
_MIN_BODY_PX = 0.75
_MIN_INSIDE = 0.5


def visible_targets(scene: SimulatedScene) -> list[tuple[SimulatedTarget, Polygon]]:
    """Return the visible targets with their outlines in pixels, clipped to the scene.

    Left out are targets shorter than 2 pixels, aircraft with a fuselage under 0.75 pixel (so all of them at
    10 m), and targets more than half outside. A ship's hull may be narrower, because dark sea surrounds it.
    """
    gsd, half = scene.platform.gsd_m, scene.extent_m / 2
    border = box(0, 0, scene.size, scene.size)
    found = []
    for target in scene.layout.targets:
        if target.length_m < _MIN_LENGTH_PX * gsd:
            continue
        if target.category == "aircraft" and target.body_m < _MIN_BODY_PX * gsd:
            continue
        corners = [((x + half) / gsd, (y + half) / gsd) for x, y in target.outline.exterior.coords]
        whole = Polygon(corners)
        inside = whole.intersection(border)
        if isinstance(inside, Polygon) and inside.area >= _MIN_INSIDE * whole.area:
            found.append((target, inside))
    return found


def coco(scene: SimulatedScene) -> dict[str, Any]:
    """Return the scene's targets in COCO's form; boxes are [x, y, width, height] in pixels."""
    annotations = []
    for number, (target, outline) in enumerate(visible_targets(scene), start=1):
        left, top, right, bottom = (round(value, 2) for value in outline.bounds)
        annotations.append(
            {
                "id": number,
                "image_id": 1,
                "category_id": CATEGORIES[target.category],
                "bbox": [left, top, round(right - left, 2), round(bottom - top, 2)],
                "area": round(outline.area, 2),
                "iscrowd": 0,
                "segmentation": [[round(v, 2) for corner in outline.exterior.coords for v in corner]],
                **_attributes(target),
            }
        )
    image = {"id": 1, "file_name": f"{scene.stem}.tif", "width": scene.size, "height": scene.size}
    categories = [{"id": number, "name": name} for name, number in CATEGORIES.items()]
    return {"images": [image], "categories": categories, "annotations": annotations}


def geojson(scene: SimulatedScene) -> dict[str, Any]:
    """Return the same targets as a GeoJSON feature collection, EPSG:4326, ids as in `coco`."""
    to_globe = Transformer.from_crs(scene.epsg, 4326, always_xy=True)
    features = []
    for number, (target, outline) in enumerate(visible_targets(scene), start=1):
        east, north = zip(*(scene.transform @ corner for corner in outline.exterior.coords), strict=True)
        lons, lats = to_globe.transform(east, north)
        ring = [(round(lon, 8), round(lat, 8)) for lon, lat in zip(lons, lats, strict=True)]
        footprint = polygons.orient(Polygon(ring))  # RFC 7946: outer rings run counter-clockwise
        properties = {"id": number, "category": target.category, **_attributes(target)}
        features.append({"type": "Feature", "geometry": mapping(footprint), "properties": properties})
    return {"type": "FeatureCollection", "features": features}


def _attributes(target: SimulatedTarget) -> dict[str, Any]:
    return {
        "type": target.type_name,
        "length_m": round(target.length_m, 1),
        "width_m": round(target.width_m, 1),
        "heading_deg": round(target.heading_deg % 360, 1),
        "state": target.state,
    }
