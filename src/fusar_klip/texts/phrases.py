"""Phrases for numbers, positions and directions; the same value always gives the same words."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence

_NUMBERS = (
    *("no", "one", "two", "three", "four", "five", "six"),
    *("seven", "eight", "nine", "ten", "eleven", "twelve"),
)
_WINDS = ("north", "north-east", "east", "south-east", "south", "south-west", "west", "north-west")
_REGIONS = (
    "upper left",
    "upper centre",
    "upper right",
    "left",
    "centre",
    "right",
    "lower left",
    "lower centre",
    "lower right",
)


def number(count: int) -> str:
    """Return 0 to 12 as a word ("no" for 0), more in figures."""
    return _NUMBERS[count] if count < len(_NUMBERS) else str(count)


def counted(count: int, singular: str, plural: str | None = None) -> str:
    """Return a number with its noun: "one ship", "three ships"."""
    return f"{number(count)} {singular if count == 1 else plural or singular + 's'}"


def listed(parts: Sequence[str]) -> str:
    """Join with commas and a last "and"."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def tenths(fraction: float) -> str:
    """Return a share in steps of 10 %, such as "40%"; at least 10%, at most 90%."""
    return f"{min(90, max(10, 10 * round(10 * fraction)))}%"


def distance(metres: float) -> str:
    """Return a distance with about two significant digits: "40 m", "850 m", "3 km"."""
    if metres < 1000:
        step = 10 if metres < 300 else 50
        rounded = max(step, step * round(metres / step))
        return f"{rounded} m" if rounded < 1000 else "1 km"
    kilometres = metres / 1000
    return f"{kilometres:.1f} km".replace(".0 km", " km") if kilometres < 10 else f"{kilometres:.0f} km"


def sizes(lengths_px: Sequence[float], gsd_m: float | None) -> str:
    """Return a length or a range of lengths, in metres if the ground spacing is known, else in pixels.

    Rounded to the spacing or to 5 m, whichever is coarser, because an edge is measured to a pixel at best.
    """
    step = max(5.0, float(math.ceil((gsd_m or 0.0) / 5) * 5)) if gsd_m else 1.0
    unit = "m" if gsd_m else "pixels"
    rounded = [
        max(step, step * round(px * (gsd_m or 1.0) / step)) for px in (min(lengths_px), max(lengths_px))
    ]
    low, high = (f"{value:.0f}" for value in rounded)
    return f"{low} {unit}" if low == high else f"{low} to {high} {unit}"


def length(length_px: float, gsd_m: float | None) -> str:
    """Return a length as a distance if the ground spacing is known, else in pixels."""
    return distance(length_px * gsd_m) if gsd_m else f"{max(10, 10 * round(length_px / 10))} pixels"


def region_name(index: int) -> str:
    """Return the name of one of the 3 x 3 regions of an image, 0 to 8 row by row."""
    return _REGIONS[index]


def region_of(row: float, col: float, height: int, width: int) -> int:
    """Return which of the 3 x 3 regions holds a point."""
    return 3 * min(2, max(0, int(3 * row / height))) + min(2, max(0, int(3 * col / width)))


def regions_with_counts(regions: Iterable[int]) -> str:
    """Return counts by region: "two in the centre and one in the upper left"; "in the centre" for one region.

    Of more than three regions only the two fullest are named, and the rest is summed.
    """
    counts = Counter(regions)
    if len(counts) == 1:
        return f"in the {region_name(next(iter(counts)))}"
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    named = ordered if len(ordered) <= 3 else ordered[:2]
    parts = [f"{number(count)} in the {region_name(region)}" for region, count in named]
    if rest := sum(counts.values()) - sum(count for _, count in named):
        parts.append(f"{number(rest)} elsewhere")
    return listed(parts)


def compass_point(bearing_deg: float) -> str:
    """Return the nearest of eight compass directions."""
    return _WINDS[round(bearing_deg / 45) % 8]


def axis(bearing_deg: float, *, north_known: bool) -> str:
    """Return the direction of a line: from compass point to compass point, or along the image."""
    index = round(bearing_deg / 45) % 4
    if north_known:
        return f"{_WINDS[index]} to {_WINDS[index + 4]}"
    return ("vertical", "lower left to upper right", "horizontal", "upper left to lower right")[index]
