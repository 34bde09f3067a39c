"""A raster without a product around it: what its name and its folder's name say."""

from pathlib import Path

from fusar_klip.geo.platforms import NamedFacts, facts_of_name
from fusar_klip.tiles.scene.products.source import SceneFacts, Source


def plain_source(path: Path) -> Source:
    """Return the source of a raster that GDAL may open; its tags are left to who opens it."""
    own, folder = facts_of_name(path.stem), facts_of_name(path.resolve().parent.name)
    # A folder of several platforms' scenes says nothing of a scene that names another one.
    same = own.platform is None or folder.platform is None or own.platform == folder.platform
    facts = facts_named(own).completed_by(facts_named(folder)) if same else facts_named(own)
    return Source(path=path, raster=str(path), name=path.stem, files=(path,), facts=facts)


def facts_named(named: NamedFacts) -> SceneFacts:
    """Return the metadata in a name as `SceneFacts`."""
    return SceneFacts(
        platform=named.platform,
        band=named.band,
        polarization=named.polarization,
        mode=named.mode,
        product_type=named.product_type,
        orbit_direction=named.orbit_direction,
        look_side=named.look_side,
        acquired=named.acquired,
    )
