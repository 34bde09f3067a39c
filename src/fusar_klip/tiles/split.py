"""Geographically disjoint training, validation and test splits (decisions.md "Train/val/test").

Large tiles that overlap on the ground, in any scene, sensor or date, form one group; a group's split is a
hash of its id, and children inherit both from their large tile. The tiles of a scene without coordinates are
one group, because their position is unknown.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from fusar_klip.catalog import Split
from fusar_klip.tiles.settings import SplitSettings

# Neighbours in one grid share their border, and rounding in the projection can make slivers of it.
_MIN_SHARED_AREA = 1e-3


def ground_groups(
    tile_ids: Sequence[str], scene_ids: Sequence[str], footprints: NDArray[np.object_]
) -> dict[str, str]:
    """Group large tiles that overlap on the ground, directly or through others.

    Args:
        tile_ids: (N,) ids of large tiles.
        scene_ids: (N,) ids of their scenes.
        footprints: (N,) shapely areas in EPSG:4326; None for a tile without coordinates.

    Returns:
        {tile_id: ground_id}; the id of a group is that of its first tile by name, so it does not depend on
        the order in which scenes were built. Without coordinates it is the scene's.
    """
    placed = np.flatnonzero(~shapely.is_missing(footprints)).tolist()
    areas = footprints[placed]
    first, second = shapely.STRtree(areas).query(areas, predicate="intersects")
    shared = shapely.area(shapely.intersection(areas[first], areas[second]))
    smaller = np.minimum(shapely.area(areas[first]), shapely.area(areas[second]))
    overlapping = shared > _MIN_SHARED_AREA * smaller
    links = coo_array(
        (np.ones(overlapping.sum()), (first[overlapping], second[overlapping])), shape=(len(placed),) * 2
    )
    labels = connected_components(links, directed=False)[1] if len(placed) else np.empty(0, int)
    members = sorted(zip((tile_ids[i] for i in placed), labels.tolist(), strict=True))
    names: dict[int, str] = {}
    for tile_id, label in members:
        names.setdefault(label, tile_id)
    return dict(zip(tile_ids, scene_ids, strict=True)) | {tile_id: names[label] for tile_id, label in members}


def split_of_ground(ground_id: str, settings: SplitSettings) -> Split:
    """Return a group's split: a hash of its id, taken as a number in [0, 1), falls into one of the shares."""
    position = int.from_bytes(hashlib.sha256(ground_id.encode()).digest()[:8]) / 2**64
    if position < settings.test:
        return "test"
    return "val" if position < settings.test + settings.val else "train"
