"""Captions from labels by five templates each: category, number and place of targets, or landforms.

The paper designs five templates and does not print them (section 4.4); these are ours. A caption states only
what the labels state.
"""

from collections import Counter
from collections.abc import Sequence

from fusar_klip.datasets.label_texts.label_summary import LandCoverSummary, TargetSummary
from fusar_klip.datasets.label_texts.phrases import counted, listed, number, region, sentence, share

# With more regions than this, those with most targets are named and the rest are counted together.
_REGIONS_NAMED = 3

TARGET_TEMPLATES = (
    "there {verb} {count} in this SAR image, {place}",
    "this SAR image shows {count}, {place}",
    "{count} can be seen in this radar image, {place}",
    "{place}: a SAR image with {count}",
    "a radar view of {count}, {place}",
)
LAND_TEMPLATES = (
    "this SAR image shows ground that is {shares}; {regions}",
    "this SAR image is mainly {main}; {regions}",
    "the ground in this radar image is {shares}, and {regions}",
    "a radar view of ground that is mainly {main}, {shares}",
    "{regions} in this SAR image, which is {shares}",
)
NO_TARGET = (
    "there is no target in this SAR image",
    "this SAR image shows no target",
    "no target can be seen in this radar image",
    "a SAR image without any target",
    "a radar view without targets",
)


def target_captions(summary: TargetSummary) -> tuple[str, ...]:
    """Return the five captions of an image with boxes."""
    if not summary.targets:
        return tuple(sentence(text) for text in NO_TARGET)
    counts = Counter(category for category, _ in summary.targets)
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    phrases = {
        "verb": "is" if ordered[0][1] == 1 else "are",
        "count": listed([counted(count, category) for category, count in ordered]),
        "place": _place([place for _, place in summary.targets], summary.grid),
    }
    return tuple(sentence(template.format(**phrases)) for template in TARGET_TEMPLATES)


def land_captions(summary: LandCoverSummary) -> tuple[str, ...]:
    """Return the five captions of an image with a mask."""
    ordered = sorted(summary.present, key=lambda k: (-summary.shares[k], k))
    phrases = {
        # Two equally large classes are both the main one.
        "main": listed(
            [summary.names[k] for k in ordered if summary.shares[k] == summary.shares[ordered[0]]]
        ),
        "shares": listed([f"{share(summary.shares[k])} {summary.names[k]}" for k in ordered]),
        "regions": _regions(summary),
    }
    return tuple(sentence(template.format(**phrases)) for template in LAND_TEMPLATES)


def _place(regions: Sequence[int], grid: int) -> str:
    """Return the place of the targets: "on the left", "two in the centre and one in the upper left"."""
    counts = Counter(regions)
    if len(counts) == 1:
        everyone = "all " if len(regions) > 1 else ""
        return f"{everyone}{region(regions[0], grid)}"
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    named = ordered if len(ordered) <= _REGIONS_NAMED else ordered[: _REGIONS_NAMED - 1]
    parts = [f"{number(count)} {region(place, grid)}" for place, count in named]
    if rest := len(regions) - sum(count for _, count in named):
        parts.append(f"{number(rest)} elsewhere")
    return listed(parts)


def _regions(summary: LandCoverSummary) -> str:
    """Return the main class of each region: "dry prevails in the upper left, flooded in the lower right"."""
    by_land: dict[int, list[str]] = {}
    for place, land in enumerate(summary.main_by_region):
        if land is not None:
            by_land.setdefault(land, []).append(region(place, summary.grid))
    if not by_land:
        return "no landform prevails"
    if len(by_land) == 1:
        return f"{summary.names[next(iter(by_land))]} prevails everywhere"
    ordered = sorted(by_land.items(), key=lambda item: (-len(item[1]), item[0]))
    parts = [f"{summary.names[land]} {listed(places)}" for land, places in ordered[1:]]
    main, places = ordered[0]
    return ", ".join([f"{summary.names[main]} prevails {listed(places)}", *parts])
