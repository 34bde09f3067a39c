"""Expert knowledge of sensor and geometry: sentences that fill the slots of the layers' templates.

Every sentence is part of this package (`sensors.toml`), with numbers filled in; no string of a scene's
metadata enters it. Facts about an unknown platform or band are omitted.
"""

import math

from fusar_klip.geo.gazetteer import Neighbour
from fusar_klip.texts.hcot.prompts.templates import sensors
from fusar_klip.texts.measure.evidence_store import TileContext
from fusar_klip.texts.phrases import compass_point

# Of the sun-synchronous orbits in `sensors.toml`; an error of a degree rotates the look direction by about
# one.
_INCLINATION_DEG = 98.2
_MAX_LATITUDE_DEG = 65.0  # nearer to a pole the track crosses the meridians
_PASS_WINDOW_H = 2.0
_EXAMPLE_HEIGHT_M = 20
_SIDES = ("top", "upper right", "right", "lower right", "bottom", "lower left", "left", "upper left")


def layer_slots(context: TileContext) -> dict[str, str]:
    """Return the values of the slots of the layers' templates: sensor, spacing, nearness."""
    table = sensors()
    facts = (
        _sensor(context),
        table["bands"].get(context.band or "", "") + _roughness(context),
        table["polarizations"].get(context.polarization or "", ""),
        _incidence(context),
        _look(context),
        _looks(context),
    )
    return {
        "sensor": "\n".join(f"- {fact}" for fact in facts if fact),
        "spacing": _spacing(context),
        "nearness": _nearness(context),
    }


def look_azimuth_deg(context: TileContext) -> tuple[float, bool] | None:
    """Return the look azimuth, degrees clockwise from north, and whether the pass is derived from the time.

    Follows from pass and side for sun-synchronous orbits: heading = asin(cos(inclination) / cos(latitude))
    on the ascending pass, mirrored on the descending one. None if it cannot be derived.
    """
    platform = sensors()["platforms"].get(context.platform or "", {})
    side = context.look_side or platform.get("look")
    orbit = context.orbit_direction or _pass_of_time(context, platform.get("ascending_hour"))
    if not platform.get("near_polar") or context.lat is None or abs(context.lat) > _MAX_LATITUDE_DEG:
        return None
    if side not in ("right", "left") or orbit not in ("ascending", "descending"):
        return None
    tilt = math.degrees(
        math.asin(math.cos(math.radians(_INCLINATION_DEG)) / math.cos(math.radians(context.lat)))
    )
    heading = tilt if orbit == "ascending" else 180 - tilt
    return (heading + (90 if side == "right" else -90)) % 360, context.orbit_direction is None


def _pass_of_time(context: TileContext, ascending_hour: float | None) -> str | None:
    """Derive the pass of a sun-synchronous orbit from the mean local solar time."""
    if ascending_hour is None or context.acquired is None or context.lon is None:
        return None
    hour = (context.acquired.hour + context.acquired.minute / 60 + context.lon / 15) % 24
    for orbit, crossing in (("ascending", ascending_hour), ("descending", ascending_hour + 12)):
        if abs((hour - crossing + 12) % 24 - 12) <= _PASS_WINDOW_H:
            return orbit
    return None


def _sensor(context: TileContext) -> str:
    platform = sensors()["platforms"].get(context.platform or "")
    if platform is None:
        return "Of the sensor nothing is known but what the data say."
    mode = platform.get("modes", {}).get(context.mode or "", "")
    return f"{platform['text']} {mode}".strip()


def _roughness(context: TileContext) -> str:
    """State which surfaces look smooth by Rayleigh's criterion: height < wavelength / (8 cos(incidence))."""
    wavelength_cm = sensors()["wavelengths_cm"].get(context.band or "")
    if wavelength_cm is None or not _known_incidence(context):
        return ""
    limit_cm = wavelength_cm / 8 / math.cos(math.radians(context.incidence_deg or 0.0))
    return (
        f" At this incidence a surface looks smooth where its height varies by less than {limit_cm:.2g} cm."
    )


def _known_incidence(context: TileContext) -> bool:
    return context.incidence_deg is not None and 5 <= context.incidence_deg <= 80


def _incidence(context: TileContext) -> str:
    if not _known_incidence(context):
        return "The incidence angle is not known: derive no height from shadow or layover."
    angle = context.incidence_deg or 0.0
    slope = math.tan(math.radians(angle))
    layover, shadow = _EXAMPLE_HEIGHT_M / slope, _EXAMPLE_HEIGHT_M * slope
    return (
        f"At an incidence angle of {angle:.0f} degrees a wall {_EXAMPLE_HEIGHT_M} m high on flat ground "
        f"leans {layover:.0f} m towards the radar and casts a shadow of {shadow:.0f} m behind."
    )


def _look(context: TileContext) -> str:
    found = look_azimuth_deg(context)
    if found is None:
        return (
            "The look direction is not known: take it from shadows if they can be seen, else leave it open."
        )
    azimuth, derived = found
    how = "Judging by the local time of the pass" if derived else "From pass and look side"
    to, back = compass_point(azimuth), compass_point(azimuth + 180)
    look = f"{how}, the radar stands in the {back} and looks towards about {azimuth:.0f} degrees ({to})"
    if not context.north_up:
        return f"{look}: layover leans to the {back}, shadows fall to the {to}."
    away, towards = (_SIDES[round(angle / 45) % 8] for angle in (azimuth, azimuth + 180))
    return f"{look}: in the picture layover leans to the {towards}, and shadows fall to the {away}."


def _looks(context: TileContext) -> str:
    if context.looks is None:
        return ""
    if context.looks < 2:
        return (
            "The image has about one look: speckle is at its strongest, and a single bright pixel is "
            "no target."
        )
    return f"The image has about {context.looks:.2g} looks, so that speckle is reduced but not gone."


def _spacing(context: TileContext) -> str:
    if context.gsd_m is None:
        return "The pixel spacing is not known: give no sizes in metres, and no types."
    spacing: float = context.gsd_m
    row = next(row for row in sensors()["spacings"] if spacing <= row["up_to_m"])
    return str(row["text"]).replace("$spacing", f"{float(f'{spacing:.2g}'):g}")


def _nearness(context: TileContext) -> str:
    geography = context.geography
    if geography.lon is None:
        return "The position is not known: name no place."
    return (
        f"{_reach('airport', geography.at_airport, geography.half_km)}"
        f"{_reach('port', geography.at_port, geography.half_km)}"
        "Airports, ports and the city are known as points, nearest first: compare distance and direction "
        "with half the side of the tile before you place any of them in the picture."
    )


def _reach(kind: str, near: Neighbour | None, half_km: float) -> str:
    """State that an airport or port whose point lies in the tile, or near it, may be visible."""
    if near is None:
        return ""
    if near.distance_km <= half_km:
        return f"The point of the nearest {kind} lies in this tile. "
    return (
        f"The point of the nearest {kind} lies {near.distance_km:.1f} km from the tile's centre, so that its "
        "grounds may reach into the picture. "
    )
