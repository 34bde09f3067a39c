"""Classifies tiles by measurements and gazetteer: the columns `landform` and `scene_type`.

landform follows from two measures of the screening, the share of open water and the density of the land:

- `water`: nine tenths and more of the tile; ships and breakwaters may be on it;
- `shore`: water and land, a tenth of either at least;
- `open_land`: little structure: meadows, bare ground, fields, forest;
- `mixed`: open land with scattered structures, quiet suburbs, a patchwork of strongly different fields;
- `built_up`: dense structure. Steep slopes that face the radar look the same.

It is null where a scene was not screened, where more than half of the tile has no data, and where water and
land cannot be distinguished in the scene (`water.py`). Elevation and vegetation are not classified: they need
a height model or a map.

scene_type `airport` and `port`: a known one lies in the tile or within 1 km, and the tile is not even; else
`water` and `urban` by landform. `industrial` and `road_network` come from the user's manifest only.
"""

from collections.abc import Mapping
from typing import Any, Final

import geopandas as gpd
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fusar_klip.catalog import Landform, SceneType
from fusar_klip.geo.gazetteer import PlaceKind, distance_km
from fusar_klip.tiles.screening.water import EVEN

ALL_WATER: Final = 0.9
"""Share of open water from which a tile is water; what is left are ships, piers and the edge of the cells."""
NO_WATER: Final = 0.1
"""Share of open water under which a tile is land."""
SCATTERED: Final = 0.3
"""Density of land with structures on it; meadows and most forest are under it, fields about it."""
BUILT_UP: Final = 0.55
"""Density that fields and slopes seldom reach."""
PLACE_MARGIN_KM: Final = 1.0
LARGEST_EXTENT_KM: Final = 5.0
"""Of a tile that an airport or a port can stand for."""


def classify(tiles: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    """Fill `landform`, and `scene_type` where it is null.

    Args:
        tiles: With the columns lon, lat (degrees), extent_m, density, water_fraction, nodata_fraction (each
            0 to 1) and scene_type.

    Returns:
        A copy of `tiles`. A scene that was not screened (density null) keeps its nulls.
    """
    density = tiles["density"].to_numpy(float)
    landform = landforms(
        tiles["water_fraction"].to_numpy(float), density, tiles["nodata_fraction"].to_numpy(float)
    )
    types: dict[SceneType, NDArray[np.bool_]] = {
        "airport": _at("airport", tiles) & (density >= EVEN),
        "port": _at("port", tiles) & (density >= EVEN),
        "water": landform == "water",
        "urban": landform == "built_up",
    }
    scene_type = tiles["scene_type"].astype(object)
    return tiles.assign(
        landform=pd.Series(landform, tiles.index, dtype=object),
        scene_type=scene_type.where(scene_type.notna(), pd.Series(_first(types), tiles.index, dtype=object)),
    )


def landforms(
    water_fraction: NDArray[np.float64], density: NDArray[np.float64], nodata_fraction: NDArray[np.float64]
) -> NDArray[np.object_]:
    """Return the landform of tiles, (N,) of `catalog.Landform`, None where it is unknown.

    Args:
        water_fraction: (N,) share of open water in the valid cells, 0 to 1; NaN where it is not known.
        density: (N,) semantic density, 0 to 1; NaN where it is not known.
        nodata_fraction: (N,) share of pixels without data, 0 to 1.
    """
    known = (nodata_fraction <= 0.5) & np.isfinite(water_fraction) & np.isfinite(density)
    names: dict[Landform, NDArray[np.bool_]] = {
        "water": known & (water_fraction >= ALL_WATER),
        "shore": known & (water_fraction >= NO_WATER),
        "built_up": known & (density >= BUILT_UP),
        "mixed": known & (density >= SCATTERED),
        "open_land": known,
    }
    return _first(names)


def _first(masks: Mapping[Any, NDArray[np.bool_]]) -> NDArray[np.object_]:
    """Return the name of the first mask that holds, (N,), None where none does."""
    names = np.full(len(next(iter(masks.values()))), None, object)
    for name, mask in reversed(list(masks.items())):
        names[mask] = name
    return names


def _at(kind: PlaceKind, tiles: pd.DataFrame) -> NDArray[np.bool_]:
    """Return which tiles are at a place of a kind: its reference point is in them or little outside."""
    extent_km = tiles["extent_m"].to_numpy(float) / 1000
    distance = distance_km(kind, tiles["lon"].to_numpy(float), tiles["lat"].to_numpy(float))
    at: NDArray[np.bool_] = (distance <= extent_km / 2 + PLACE_MARGIN_KM) & (extent_km <= LARGEST_EXTENT_KM)
    return at
