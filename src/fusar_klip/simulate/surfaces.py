"""How each kind of ground looks from above: backscatter, height and walls, pixel by pixel.

Patterns inside an area (parcels, streets and houses, container stacks) are functions of position and the
area's seed alone: nothing is stored, any window of a scene can be painted, and windows join without a seam.
Levels are sigma0 in dB at C band around 35 degrees; shorter waves see vegetation and sea a little brighter.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TypeAlias

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio import features
from scipy import stats

from fusar_klip.geo.platforms import Platform
from fusar_klip.simulate.layout import KINDS, GroundArea, Kind
from fusar_klip.simulate.noise import Float32, Float64, Int64, Window, hashed, smooth, uniform
from fusar_klip.simulate.projection import MAX_HEIGHT_M

Mask: TypeAlias = NDArray[np.bool_]

LAND_COVER: Mapping[int, str] = {
    0: "no data", 1: "water", 2: "field", 3: "grass", 4: "forest", 5: "built-up", 6: "road",
    7: "airfield pavement", 8: "harbour", 9: "bare",
}  # fmt: skip
"""Classes of the land-cover mask. It is a map of the ground: layover does not move it."""

_COVER: Mapping[Kind, int] = {
    "sea": 1, "lake": 1, "wake": 1, "wake_edge": 1, "hull": 1, "airframe": 7,
    "cargo": 1, "bridge": 1, "field": 2, "grass": 3, "forest": 4,
    "residential": 5, "downtown": 5, "industrial": 5, "building": 5, "parking": 6, "road": 6, "runway": 7,
    "apron": 7, "quay": 8, "containers": 8, "rock": 9,
}  # fmt: skip


@dataclass(frozen=True)
class Ground:
    """The surfaces of a window, each (H, W): what `projection.project` and the mask need."""

    sigma: Float32
    height_m: Float32
    facing: Float32
    strength: Float32
    cover: NDArray[np.uint8]


class _Patch:
    """The pixels of one kind within a window, flat, with the columns of their areas and shared textures."""

    def __init__(
        self, terrain: "SurfaceMap", index: Int64, x: Float64, y: Float64, textures: Float32
    ) -> None:
        self.terrain = terrain
        self.index = index
        self.x, self.y = x, y
        self.broad, self.mid, self.fine = textures

    def column(self, name: str) -> Float32:
        values: Float32 = self.terrain.columns[name][self.index]
        return values

    @cached_property
    def seed(self) -> Int64:
        seeds: Int64 = self.terrain.seeds[self.index]
        return seeds

    @cached_property
    def uv(self) -> tuple[Float64, Float64]:
        """Along and across the heading of the area's grid, metres."""
        sin, cos = self.column("sin"), self.column("cos")
        shift = uniform(0, 0, self.seed) * 512
        return self.x * sin - self.y * cos + shift, self.x * cos + self.y * sin + shift


@dataclass
class _Paint:
    """The result of a painter for its pixels: sigma0 in dB, and elevated structures."""

    sigma_db: Float32
    height_m: Float32 | None = None
    strength: Float32 | None = None
    cover: NDArray[np.uint8] | None = None


class SurfaceMap:
    """All areas of a scene, ready to be painted window by window."""

    def __init__(
        self, areas: Sequence[GroundArea], platform: Platform, seed: int, upper_left: tuple[float, float]
    ) -> None:
        self.platform, self.gsd_m, self.seed, self.upper_left = platform, platform.gsd_m, seed, upper_left
        ground = GroundArea(shapely.box(0, 0, 1, 1), "road", seed=seed)
        self._areas = [ground, *areas]  # index 0 is what shows between all others
        self._tree = shapely.STRtree([area.polygon for area in self._areas])
        heading = np.radians([area.heading_deg for area in self._areas])
        off_square = (np.degrees(heading) + 45) % 90 - 45
        self.columns = {
            "sin": np.sin(heading).astype(np.float32),
            "cos": np.cos(heading).astype(np.float32),
            "along": np.array([area.pitch_m[0] for area in self._areas], np.float32),
            "across": np.array([area.pitch_m[1] for area in self._areas], np.float32),
            "height": np.array([area.height_m for area in self._areas], np.float32),
            "gain": np.array([area.gain_db for area in self._areas], np.float32),
            # Dihedrals answer within a few degrees of square to the flight path; little is left beyond.
            "facing": (np.exp(-((off_square / 9.0) ** 2)) + 0.05).astype(np.float32),
        }
        self.seeds = np.array([area.seed for area in self._areas], np.int64)
        self._kinds = np.array([KINDS.index(area.kind) for area in self._areas], np.uint8)
        short_wave = {"Ku": 2.0, "X": 1.0}.get(platform.band, 0.0)
        self.vegetation_db = short_wave
        self.sea_db = -20.5 + short_wave + (3.0 if platform.polarization == "VV" else 0.0)

    def paint(self, window: Window) -> Ground:
        """Paint a window of the pixel grid (it may reach beyond the scene)."""
        x = self.upper_left[0] + (np.arange(window.width, dtype=np.float64) + (window.col + 0.5)) * self.gsd_m
        y = (
            self.upper_left[1]
            + (np.arange(window.height, dtype=np.float64) + (window.row + 0.5)) * self.gsd_m
        )
        index = self._index(window)
        kinds = self._kinds[index]
        shape = kinds.shape
        textures = np.stack(
            [
                smooth(x, y, wavelength, self.seed + 10 * k)
                for k, wavelength in enumerate((220.0, max(22.0, 5 * self.gsd_m), 2.6 * self.gsd_m + 0.6))
            ]
        ).reshape(3, -1)
        sigma_db = np.zeros(kinds.size, np.float32)
        height, strength = np.zeros_like(sigma_db), np.ones_like(sigma_db)
        cover = np.zeros(kinds.size, np.uint8)
        flat_index, flat_kinds = index.ravel(), kinds.ravel()
        for code in np.unique(flat_kinds):
            kind = KINDS[code]
            at = np.flatnonzero(flat_kinds == code)
            patch = _Patch(
                self,
                flat_index[at],
                x[at % shape[1]],
                y[at // shape[1]],
                np.ascontiguousarray(textures[:, at]),
            )
            paint = _PAINTERS[kind](patch)
            sigma_db[at] = paint.sigma_db + patch.column("gain")
            cover[at] = _COVER[kind] if paint.cover is None else paint.cover
            if paint.height_m is not None:
                height[at] = np.minimum(paint.height_m, MAX_HEIGHT_M)
            if paint.strength is not None:
                strength[at] = paint.strength
        sigma = np.power(np.float32(10), sigma_db / 10)
        facing = self.columns["facing"][index]
        return Ground(
            sigma.reshape(shape), height.reshape(shape), facing, strength.reshape(shape), cover.reshape(shape)
        )

    def _index(self, window: Window) -> Int64:
        """Which area each pixel shows, (H, W)."""
        left = self.upper_left[0] + window.col * self.gsd_m
        top = self.upper_left[1] + window.row * self.gsd_m
        extent = (window.width * self.gsd_m, window.height * self.gsd_m)
        near = np.sort(self._tree.query(shapely.box(left, top, left + extent[0], top + extent[1])))
        shapes = [(self._areas[i].polygon, int(i)) for i in near if i > 0]
        if not shapes:
            return np.zeros((window.height, window.width), np.int64)
        transform = Affine(self.gsd_m, 0, left, 0, self.gsd_m, top)
        burnt = features.rasterize(
            shapes, (window.height, window.width), fill=0, transform=transform, dtype="int32"
        )
        return np.asarray(burnt, np.int64)


def _sea(p: _Patch) -> _Paint:
    terrain = p.terrain
    # Swell: one long wave over the scene, its crests bent by slow changes; seen where a pixel is finer.
    direction = 2 * np.pi * uniform(1, 0, terrain.seed)[0]
    wavelength = 60 + 140 * uniform(2, 0, terrain.seed)[0]
    phase = (p.x * np.cos(direction) + p.y * np.sin(direction)) / wavelength
    swell = np.sin(2 * np.pi * phase + 1.4 * p.broad) * min(1.3, 0.02 * wavelength / terrain.gsd_m)
    # Gamma texture under gamma speckle makes the sea K-distributed; coarse pixels average it away.
    quantiles, levels = _gamma_texture(2.5 + 2.2 * terrain.gsd_m)
    texture_db = np.interp(p.fine, quantiles, levels)
    return _Paint((terrain.sea_db + swell + texture_db + 0.7 * p.broad).astype(np.float32))


@cache
def _gamma_texture(order: float) -> tuple[Float64, Float64]:
    """Quantiles of a Gaussian, and the texture in dB (gamma of mean 1) that stands at them."""
    quantiles = np.linspace(-4, 4, 401)
    texture = stats.gamma.ppf(stats.norm.cdf(quantiles), order) / order
    return quantiles, 10 * np.log10(np.maximum(texture, 1e-3))


def _lake(p: _Patch) -> _Paint:
    return _Paint(np.float32(p.terrain.sea_db - 2.5) + 0.5 * p.broad)


def _field(p: _Patch) -> _Paint:
    u, v = p.uv
    row, across, width = _split(v / p.column("across"), p.seed)
    shifted = u / p.column("along") + 7 * uniform(row, 3, p.seed)
    col, along, length = _split(shifted, p.seed + row)
    crop = uniform(row, col, p.seed)
    level = np.select([crop < 0.22, crop > 0.86], [-16.5, -8.0], -14.5 + 7.0 * crop).astype(np.float32)
    level = level + p.terrain.vegetation_db + (0.9 * p.mid + 0.5 * p.fine) * (0.4 + crop)
    if p.terrain.gsd_m < 1.6:  # furrows, and tramlines every few metres
        period = 1.4 + 5 * uniform(row, col, p.seed + 1)
        lines = np.where(uniform(row, col, p.seed + 2) < 0.5, u, v)
        level = level + 1.2 * np.sin(2 * np.pi * lines / period)
    edge_m = np.minimum(across * width * p.column("across"), along * length * p.column("along"))
    hedge = (edge_m < 3.5) & (uniform(row, col, p.seed + 3) < 0.3)
    level = np.where(edge_m < 2.0, -14.0, level)
    height = np.where(hedge & (p.fine > -0.3), 4.0, 0.0)
    return _Paint(np.where(hedge, -8.0, level).astype(np.float32), height.astype(np.float32))


def _grass(p: _Patch) -> _Paint:
    return _Paint(np.float32(-13.5 + p.terrain.vegetation_db) + 1.1 * p.broad + 0.7 * p.mid + 0.4 * p.fine)


def _forest(p: _Patch) -> _Paint:
    canopy = p.column("height") * np.clip(0.82 + 0.16 * p.fine + 0.08 * p.mid, 0.15, 1.25)
    glade = p.mid + 0.6 * p.broad < -2.1
    level = np.float32(-10.0 + p.terrain.vegetation_db) + 0.6 * p.mid + 0.8 * p.fine
    return _Paint(
        np.where(glade, -13.0, level).astype(np.float32),
        np.where(glade, 0.0, canopy).astype(np.float32),
        np.full(canopy.shape, 0.25, np.float32),  # a wall of leaves: no dihedral to speak of
    )


def _streets(
    p: _Patch, street_m: float, lot_m: float, margin_m: float, gap: float
) -> tuple[Mask, Mask, Int64, Float32]:
    """Cut an area into blocks, lots and buildings: (on a street, on a roof, key of the building, its ridge).

    The ridge is the signed place across the building, -1 to 1.
    """
    u, v = p.uv
    along_m, across_m = p.column("along"), p.column("across")
    row, across, depth = _split(v / across_m, p.seed)
    col, along, length = _split(u / along_m + 0.5 * uniform(row, 1, p.seed), p.seed + row)
    half_street = street_m / 2
    depth_m, length_m = depth * across_m, length * along_m
    from_edge = np.minimum(np.minimum(along, 1 - along) * length_m, np.minimum(across, 1 - across) * depth_m)
    on_street = from_edge < half_street

    inner_m = length_m - street_m
    block = hashed(row, col, p.seed).astype(np.int64)
    lots = np.maximum(1, np.rint(inner_m / (lot_m * (0.75 + 0.6 * uniform(block, 1, p.seed)))))
    place = np.clip((along * length_m - half_street) / inner_m, 0, 0.9999) * lots
    lot = np.floor(place)
    lot_depth = (depth_m - street_m) / 2
    deep = np.clip(across * depth_m - half_street, 0, 2 * lot_depth - 1e-3)
    side = np.floor(deep / lot_depth)
    key = hashed(block, lot * 2 + side, p.seed).astype(np.int64)

    front, back = margin_m * (0.5 + uniform(key, 1, 0)), lot_depth * (0.15 + 0.4 * uniform(key, 2, 0))
    from_street = np.where(side == 0, deep, 2 * lot_depth - deep)
    lot_width = inner_m / lots
    across_lot = (place - lot) * lot_width
    left = margin_m * 0.7 * uniform(key, 3, 0)
    right = lot_width - margin_m * 0.7 * uniform(key, 4, 0)
    roof = (from_street > front) & (from_street < lot_depth - back) & (across_lot > left)
    roof &= (across_lot < right) & (uniform(key, 5, 0) > gap) & ~on_street
    ridge = 2 * (from_street - front) / np.maximum(lot_depth - back - front, 1) - 1
    return on_street, roof, key, (ridge * np.where(side == 0, 1, -1)).astype(np.float32)


def _built(p: _Patch, paint: tuple[Mask, Mask, Int64, Float32], tall: Float32, yard_db: float) -> _Paint:
    on_street, roof, key, ridge = paint
    level = np.float32(yard_db) + 1.2 * p.fine + 1.2 * p.mid
    # One half of a pitched roof leans towards the radar.
    pitched = np.where(uniform(key, 6, 0) < 0.6, 2.2 * np.sign(ridge), 0.0)
    glint = _glint_db(p)
    roof_db = -10.5 + 9.0 * (uniform(key, 7, 0) - 0.5) + pitched + glint + 1.2 * p.broad
    level = np.where(roof, roof_db, level)
    traffic = uniform(np.floor(p.x / 5), np.floor(p.y / 5), p.terrain.seed)
    level = np.where(on_street, np.where(traffic > 0.985, -4.0, -18.0), level)
    # Few buildings make most of the bright lines of a town.
    strength = 2.0 * _heavy_tailed(uniform(key, 8, 0), 2.2, p.terrain.gsd_m) * np.exp(0.5 * p.broad)
    cover = np.where(on_street, 6, 5).astype(np.uint8)
    return _Paint(level.astype(np.float32), np.where(roof, tall, 0).astype(np.float32), strength, cover)


def _residential(p: _Patch) -> _Paint:
    cut = _streets(p, street_m=11.0, lot_m=19.0, margin_m=5.0, gap=0.12)
    tall = p.column("height") * (0.7 + 0.6 * uniform(cut[2], 9, 0))
    return _built(p, cut, tall, -10.5 + p.terrain.vegetation_db)


def _downtown(p: _Patch) -> _Paint:
    cut = _streets(p, street_m=16.0, lot_m=32.0, margin_m=3.0, gap=0.15)
    tall = p.column("height") * (0.3 + 1.4 * uniform(cut[2], 9, 0) ** 2)
    return _built(p, cut, tall, -12.0)


def _industrial(p: _Patch) -> _Paint:
    cut = _streets(p, street_m=14.0, lot_m=75.0, margin_m=9.0, gap=0.25)
    tall = p.column("height") * (0.7 + 0.6 * uniform(cut[2], 9, 0))
    return _built(p, cut, tall, -13.0)


def _containers(p: _Patch) -> _Paint:
    u, v = p.uv
    along_m, across_m = p.column("along"), p.column("across")
    row, across, depth = _split(v / across_m, p.seed)
    col, along, length = _split(u / along_m, p.seed)
    lane = (along * length * along_m < 18.0) | (across * depth * across_m < 11.0)
    fill = uniform(row, col, p.seed)
    # Stacks of 12.2 m x 2.44 m boxes, with gaps between the bays.
    bay, slot = np.floor(u / 12.9), np.floor(v / 2.8)
    tiers = np.floor(6.2 * fill**0.6 * uniform(bay, slot // 2, p.seed + 5))
    tiers = np.where(lane | (fill < 0.08), 0, tiers)
    level = np.where(tiers > 0, -7.0 + _glint_db(p), -17.0 + p.mid)
    strength = 2.0 * _heavy_tailed(uniform(bay, slot, p.seed + 7), 1.6, p.terrain.gsd_m)
    return _Paint(level.astype(np.float32), (2.6 * tiers).astype(np.float32), strength)


def _parking(p: _Patch) -> _Paint:
    u, v = p.uv
    bay, row = np.floor(u / 2.7), np.floor(v / 5.4)
    car = (uniform(bay, row, p.seed) < 0.6) & (row % 3 != 0)
    level = np.where(car, -9.0 + 14.0 * uniform(bay, row, p.seed + 1) ** 2, -19.0)
    return _Paint(level.astype(np.float32))


def _quay(p: _Patch) -> _Paint:
    u, v = p.uv
    col, row = np.floor(u / 9), np.floor(v / 7)
    # Lorries, spreaders, lost boxes: one in forty places holds something, each of its own size.
    reach = 0.25 + 0.5 * uniform(col, row, p.seed + 1)
    bright = (uniform(col, row, p.seed) < 0.025) & (u / 9 % 1 < reach) & (v / 7 % 1 < 0.6 * reach)
    level = np.where(bright, -6.0 + _glint_db(p), -16.0 + 1.5 * p.mid + 0.7 * p.fine)
    return _Paint(level.astype(np.float32), np.where(bright, 3.0, 0.0).astype(np.float32))


def _building(p: _Patch) -> _Paint:
    u, _ = p.uv
    # Sheds and halls are bays under one roof: bright ribs or skylights at the pitch of the frames.
    phase = (u / p.column("across")) % 1
    ribs = np.where(phase < 0.2, 8.0, 0.0)
    level = -16.0 + ribs + 1.0 * p.mid + _glint_db(p)
    bay = np.floor(u / 9)
    strength = 0.5 + _heavy_tailed(uniform(bay, 0, p.seed), 1.5, p.terrain.gsd_m)
    return _Paint(level.astype(np.float32), p.column("height"), strength)


def _glint_db(p: _Patch) -> Float32:
    """Made things answer by a few of their parts: a heavy-tailed factor per metre or pixel, mean 1."""
    step = max(1.0, p.terrain.gsd_m)
    unit = uniform(np.floor(p.x / step), np.floor(p.y / step), p.terrain.seed + 3)
    return 10 * np.log10(_heavy_tailed(unit, 1.8, p.terrain.gsd_m))


def _heavy_tailed(unit: Float32, power: float, gsd_m: float) -> Float32:
    """Turn uniform numbers into factors of mean 1, an exponential to a power.

    A coarse pixel holds many parts, and their mean varies less: the power falls with the spacing.
    """
    power = 0.35 + (power - 0.35) / (1 + gsd_m / 6)
    factor = np.maximum(-np.log1p(-0.9999 * unit), 0.02) ** power / math.gamma(1 + power)
    return np.asarray(factor, np.float32)


def _flat(level_db: float, broad: float, mid: float, fine: float) -> Callable[[_Patch], _Paint]:
    def paint(p: _Patch) -> _Paint:
        return _Paint(np.float32(level_db) + broad * p.broad + mid * p.mid + fine * p.fine)

    return paint


def _hull(p: _Patch) -> _Paint:
    return _Paint(-7.0 + 1.0 * p.mid + _glint_db(p))


def _rock(p: _Patch) -> _Paint:
    return _Paint(-9.0 + 2.0 * p.mid + _glint_db(p), p.column("height") * np.clip(1 + 0.3 * p.fine, 0, 2))


_PAINTERS: Mapping[Kind, Callable[[_Patch], _Paint]] = {
    "road": _flat(-18.5, 0.3, 0.5, 0.4),
    "sea": _sea,
    "wake": _sea,
    "wake_edge": _sea,
    "lake": _lake,
    "field": _field,
    "grass": _grass,
    "forest": _forest,
    "residential": _residential,
    "downtown": _downtown,
    "industrial": _industrial,
    "runway": _flat(-25.0, 0.3, 0.3, 0.3),
    "apron": _flat(-23.0, 0.4, 0.5, 0.3),
    "quay": _quay,
    "containers": _containers,
    "cargo": _containers,
    "bridge": _building,
    "building": _building,
    "rock": _rock,
    "hull": _hull,
    "airframe": _hull,
    "parking": _parking,
}


def _split(t: NDArray[np.floating], seed: Int64) -> tuple[Int64, Float64, Float64]:
    """Cut a line into cells of about unit length with jittered ends: (cell, place in it, its length)."""
    cell = np.floor(t).astype(np.int64)
    start = cell + 0.36 * (uniform(cell, 17, seed) - 0.5)
    end = cell + 1 + 0.36 * (uniform(cell + 1, 17, seed) - 0.5)
    before, after = t < start, t >= end
    cell = cell - before + after
    start = cell + 0.36 * (uniform(cell, 17, seed) - 0.5)
    end = cell + 1 + 0.36 * (uniform(cell + 1, 17, seed) - 0.5)
    return cell, (t - start) / (end - start), end - start
