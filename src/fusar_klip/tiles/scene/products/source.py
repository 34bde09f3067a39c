"""What a SAR product says of itself before a pixel is read: its raster, its facts, its geometry."""

from dataclasses import dataclass, fields, replace
from datetime import datetime
from pathlib import Path

from rasterio.control import GroundControlPoint
from rasterio.rpc import RPC

from fusar_klip.catalog import SceneType
from fusar_klip.tiles.scene.calibration import Calibration
from fusar_klip.tiles.settings import PixelKind


@dataclass(frozen=True)
class SceneFacts:
    """What is known of a scene, named as the catalog's columns; None where it is not known.

    Attributes:
        acquired: Start of the acquisition, UTC.
        place: Name of the place, only from a scene manifest.
        country: English name of the country, only from a scene manifest.
        scene_type: One of the catalog's closed list, only from a scene manifest.
    """

    platform: str | None = None
    band: str | None = None
    polarization: str | None = None
    mode: str | None = None
    product_type: str | None = None
    orbit_direction: str | None = None
    look_side: str | None = None
    incidence_deg: float | None = None
    looks: float | None = None
    acquired: datetime | None = None
    place: str | None = None
    country: str | None = None
    scene_type: SceneType | None = None

    def completed_by(self, other: "SceneFacts") -> "SceneFacts":
        """Return these facts, with what is None here taken from `other`."""
        missing = {f.name: getattr(other, f.name) for f in fields(self) if getattr(self, f.name) is None}
        return replace(self, **missing)


@dataclass(frozen=True)
class Source:
    """One raster of a product: one polarization of one acquisition.

    Attributes:
        path: What the user named, as an absolute path.
        raster: What GDAL opens: a path, or "/vsizip/{...}/...".
        name: Stem of the measurement file, or the product's name where the stem alone does not tell the
            acquisition ("iw-vv"); `scene_id` begins with it.
        files: The files whose content makes `scene_id`: the measurement file, or the zip that holds it.
        facts: What the product's metadata says, completed by what its names say.
        kind: What a pixel is, where the metadata tells it.
        bands: The raster's bands that hold the pixel, from 1: (amplitude,) or (real, imaginary), as
            Gaofen-3 level 1A and SICD's int16 pairs; None where the reader has to choose.
        amplitude_table: Amplitude by the 8-bit value of the band, 256 numbers (SICD's AMP8I_PHS8I).
        rpcs: Rational polynomials from files that GDAL does not find itself.
        gcps: Ground control points (x longitude, y latitude, EPSG:4326) from metadata. They hold in place of
            what the raster itself says: NITF's own corners are of whole seconds, 30 m.
        gsd_m: (along a column, along a row) pixel spacing in metres by the metadata. For a product on the
            slant plane the second is the slant range's.
        calibration: Look-up table to sigma0, for settings.calibration == "sigma0".
    """

    path: Path
    raster: str
    name: str
    files: tuple[Path, ...]
    facts: SceneFacts
    kind: PixelKind | None = None
    bands: tuple[int] | tuple[int, int] | None = None
    amplitude_table: tuple[float, ...] | None = None
    rpcs: RPC | None = None
    gcps: tuple[GroundControlPoint, ...] = ()
    gsd_m: tuple[float, float] | None = None
    calibration: Calibration | None = None
