"""English phrases of captions and questions: numbers, nouns, regions and shares.

`texts` has similar functions, which this package does not import: that stage needs rasterio.
"""

from collections.abc import Sequence

NUMBERS = (
    *("no", "one", "two", "three", "four", "five", "six"),
    *("seven", "eight", "nine", "ten", "eleven", "twelve"),
)
_ROWS = {2: ("upper", "lower"), 3: ("upper", "", "lower")}
_COLUMNS = {2: ("left", "right"), 3: ("left", "centre", "right")}
_SAME_PLURAL = ("aircraft", "craft")


def number(count: int) -> str:
    """Return 0 to 12 as a word ("no" for 0), more in figures."""
    return NUMBERS[count] if count < len(NUMBERS) else str(count)


def noun(category: str, count: int) -> str:
    """Return a category's noun for a count: "ship", "ships", "targets of type A220"."""
    name = category.replace("_", " ").strip()
    if name == "other":
        return "other target" if count == 1 else "other targets"
    if name != name.lower() or not name.replace(" ", "").replace("-", "").isalpha():
        return f"{'target' if count == 1 else 'targets'} of type {name}"
    if count == 1 or name.endswith(_SAME_PLURAL):
        return name
    if name.endswith(("s", "x", "ch", "sh")):
        return f"{name}es"
    return f"{name[:-1]}ies" if name.endswith("y") and name[-2:-1] not in "aeiou" else f"{name}s"


def counted(count: int, category: str) -> str:
    """Return a count with its noun: "no ships", "one ship", "13 ships"."""
    return f"{number(count)} {noun(category, count)}"


def listed(parts: Sequence[str]) -> str:
    """Join with commas and a last "and"."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def sentence(text: str) -> str:
    """Return a text as a sentence, with a capital letter and a full stop."""
    return f"{text[:1].upper()}{text[1:]}."


def region(index: int, grid: int) -> str:
    """Return the place of one of the grid x grid regions of an image, numbered row by row from 0.

    Regions of 2 x 2 and 3 x 3 have names, "in the upper left"; others have numbers from 1, "in region 5".
    """
    if grid not in _ROWS:
        return f"in region {index + 1}"
    row, column = _ROWS[grid][index // grid], _COLUMNS[grid][index % grid]
    return f"in the {row} {column}" if row else f"{'in' if column == 'centre' else 'on'} the {column}"


def share(fraction: float) -> str:
    """Return a share in steps of 10 %: "about 70%", "a little" under 5 %, "nearly all" from 95 %."""
    if fraction < 0.05:
        return "a little"
    return "nearly all" if fraction >= 0.95 else f"about {10 * max(1, round(10 * fraction))}%"
