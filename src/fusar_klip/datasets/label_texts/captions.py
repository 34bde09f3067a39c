"""Captions from labels by five templates each: category, number and place of targets, or landforms.

The paper designs five templates and does not print them (section 4.4); these are ours. They say nothing that
the labels do not.
"""

from collections import Counter
from collections.abc import Sequence

from fusar_klip.datasets.label_texts.label_summary import LandCoverSummary, TargetSummary
from fusar_klip.datasets.label_texts.phrases import counted, listed, number, region, sentence, share

# Of more regions than this, the fullest are named and the rest counted together.
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


def target_captions(facts: TargetSummary) -> tuple[str, ...]:
    """Return the five captions of an image with boxes."""
    if not facts.targets:
        return tuple(sentence(text) for text in NO_TARGET)
    counts = Counter(category for category, _ in facts.targets)
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    said = {
        "verb": "is" if ordered[0][1] == 1 else "are",
        "count": listed([counted(count, category) for category, count in ordered]),
        "place": _place([place for _, place in facts.targets], facts.side),
    }
    return tuple(sentence(template.format(**said)) for template in TARGET_TEMPLATES)


def land_captions(facts: LandCoverSummary) -> tuple[str, ...]:
    """Return the five captions of an image with a mask."""
    ordered = sorted(facts.present, key=lambda k: (-facts.shares[k], k))
    said = {
        # Two landforms of one size are both the main one.
        "main": listed([facts.names[k] for k in ordered if facts.shares[k] == facts.shares[ordered[0]]]),
        "shares": listed([f"{share(facts.shares[k])} {facts.names[k]}" for k in ordered]),
        "regions": _regions(facts),
    }
    return tuple(sentence(template.format(**said)) for template in LAND_TEMPLATES)


def _place(regions: Sequence[int], side: int) -> str:
    """Return where targets are: "on the left", "two in the centre and one in the upper left"."""
    counts = Counter(regions)
    if len(counts) == 1:
        everyone = "all " if len(regions) > 1 else ""
        return f"{everyone}{region(regions[0], side)}"
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    named = ordered if len(ordered) <= _REGIONS_NAMED else ordered[: _REGIONS_NAMED - 1]
    parts = [f"{number(count)} {region(place, side)}" for place, count in named]
    if rest := len(regions) - sum(count for _, count in named):
        parts.append(f"{number(rest)} elsewhere")
    return listed(parts)


def _regions(facts: LandCoverSummary) -> str:
    """Return which prevails where: "dry prevails in the upper left, flooded in the lower right"."""
    by_land: dict[int, list[str]] = {}
    for place, land in enumerate(facts.main_by_region):
        if land is not None:
            by_land.setdefault(land, []).append(region(place, facts.side))
    if not by_land:
        return "no landform prevails"
    if len(by_land) == 1:
        return f"{facts.names[next(iter(by_land))]} prevails everywhere"
    ordered = sorted(by_land.items(), key=lambda item: (-len(item[1]), item[0]))
    parts = [f"{facts.names[land]} {listed(places)}" for land, places in ordered[1:]]
    main, places = ordered[0]
    return ", ".join([f"{facts.names[main]} prevails {listed(places)}", *parts])
