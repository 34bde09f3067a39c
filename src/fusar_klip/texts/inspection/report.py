"""The HTML report of `inspect`: one file, no script, light and dark; every text in it is escaped."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusar_klip import __version__
from fusar_klip.catalog import FEATURES, FIELDS, Task, read_tiles
from fusar_klip.texts.html_pages import png_url, render, tile_url
from fusar_klip.texts.inspection import figures, image_text_similarity
from fusar_klip.texts.inspection.caption_sources import CaptionSource, ImageCaptions
from fusar_klip.texts.inspection.scio_decisions import read_scio_decisions
from fusar_klip.texts.inspection.statistics import (
    CORPUS_TOKENS,
    MTLD_MIN_TOKENS,
    NO_FIELD,
    SAMPLE_IMAGES,
    CaptionStatistics,
    FieldStatistics,
    MeasuredCaptions,
    random_order,
)

_TEMPLATE = Path(__file__).parent / "templates" / "report.html.j2"
_SCHEMA_TITLES = {"target": "Target texts", "terrain": "Terrain texts", NO_FIELD: "Captions"}
_TASK_TITLES: Mapping[Task, str] = {
    "ground_target": "ground target",
    "marine_target": "marine target",
    "terrain": "terrain",
}
_BARS = 28
_EXAMPLES_PER_TASK = 3
_COLUMNS_SIDE_BY_SIDE = 4
_REPEATED = 8
_FIGURE_TILES = 1_000
_MIN_VALID_FRACTION = 0.9  # else images differ mainly by the border of their scene
_IMAGE_PX = 384
_THUMBNAIL_PX = 128


@dataclass(frozen=True)
class ReportInput:
    """Input of the report.

    Attributes:
        title: Name of the data set or file.
        dataset: The data set's folder; None for a file.
        main: The text version or file that the report describes.
        versions: All text versions of the data set, oldest first.
        measured: Statistics of `main`, then of the sets that it is compared with.
    """

    title: str
    dataset: Path | None
    main: CaptionSource
    versions: Mapping[str, CaptionSource]
    measured: Sequence[MeasuredCaptions]


def report_html(report: ReportInput) -> str:
    """Return the report as HTML."""
    main = report.measured[0]
    statistics = main.statistics
    schemas = list(dict.fromkeys(field.schema for field in statistics.by_field))
    columns = _columns_side_by_side(report)
    texts_by_version = {name: _texts_of(report, name) for name in columns}
    return render(
        _TEMPLATE,
        title=report.title,
        s=statistics,
        is_dataset=report.dataset is not None,
        by_task=_by_task(main.sample),
        rows=_comparison([m.statistics for m in report.measured]),
        schemas=[_schema(schema, main) for schema in sorted(schemas)],
        columns=[_column(report.versions[name]) for name in columns],
        examples=_examples(report, texts_by_version),
        plain=any(report.versions[name].mode == "plain" for name in columns),
        repeated=_repeated(main.sample),
        sampled=len(main.sample),
        figure=_figure_10(report, texts_by_version),
        decided=_scio_decisions(report),
        corpus_tokens=CORPUS_TOKENS,
        sample_images=SAMPLE_IMAGES,
        mtld_least=MTLD_MIN_TOKENS,
        version=__version__,
    )


def _by_task(sample: Sequence[ImageCaptions]) -> str:
    counts = Counter(text.task for text in sample if text.task is not None)
    total = counts.total()
    return ", ".join(f"{n / total:.0%} {_TASK_TITLES[task]}" for task, n in counts.most_common())


def _comparison(sets: Sequence[CaptionStatistics]) -> list[dict[str, Any]]:
    """Return the lines of figure 11's table, with the lengths of their bars in per cent of the longest."""
    longest = max((s.tokens_per_image for s in sets), default=0) or 1
    richest = max((s.mtld or 0 for s in sets), default=0) or 1
    return [
        {
            "s": s,
            "tokens_bar": 100 * s.tokens_per_image / longest,
            "mtld_bar": 100 * (s.mtld or 0) / richest,
            "short": s.corpus_tokens < CORPUS_TOKENS,
        }
        for s in sets
    ]


def _schema(schema: str, measured: MeasuredCaptions) -> dict[str, Any]:
    order = {
        **{("target", field): place for place, field in enumerate(FIELDS["marine_target"])},
        **{("terrain", field): place for place, field in enumerate(FIELDS["terrain"])},
    }
    own = [field for field in measured.statistics.by_field if field.schema == schema]
    own.sort(key=lambda f: (order.get((schema, f.field), len(order)), f.field))
    # One scale for all fields of a schema; the last bar holds the few longest sentences.
    reach = max(6, *(field.p95 for field in own)) * 1.25
    step = max(1, -(-int(reach) // _BARS))
    cloud = figures.word_cloud(measured.words[schema])
    return {
        "title": _SCHEMA_TITLES[schema],
        "cloud": cloud and png_url(cloud),
        "words": ", ".join(word for word, _ in measured.words[schema].most_common(10)),
        "fields": [{"f": field, "bars": _bars(field, step, int(reach))} for field in own],
        "step": step,
    }


def _bars(field: FieldStatistics, step: int, reach: int) -> list[dict[str, Any]]:
    count = reach // step + 1
    heights = [0] * count
    for length, sentences in field.histogram.items():
        heights[min(length // step, count - 1)] += sentences
    top = max(heights)
    return [
        {
            "height": 100 * n / top,
            "title": f"{_span(place, step, last=place == count - 1)} tokens: {n:,} sentences",
        }
        for place, n in enumerate(heights)
    ]


def _span(place: int, step: int, *, last: bool) -> str:
    start = place * step
    if last:
        return f"{start} or more"
    return str(start) if step == 1 else f"{start} to {start + step - 1}"


def _columns_side_by_side(report: ReportInput) -> list[str]:
    """Choose the text versions to compare side by side: without HCoT, the main one, then others."""
    if not report.versions:
        return []
    others = [s for s in report.versions.values() if s is not report.main]
    plain = [s for s in others if s.mode == "plain"]
    further = sorted((s for s in others if s.mode != "plain"), key=lambda s: "template" not in s.about)
    ordered = [*plain[-1:], report.main, *further, *plain[:-1]]
    return [s.name for s in ordered[:_COLUMNS_SIDE_BY_SIDE]]


def _column(source: CaptionSource) -> dict[str, str]:
    hcot = {"plain": "without HCoT", "chain": "HCoT, layer by layer", "single": "HCoT, one request"}
    return {"name": source.name, "about": source.about, "hcot": hcot.get(source.mode or "", "")}


def _texts_of(report: ReportInput, name: str) -> dict[str, ImageCaptions]:
    """Return a version's texts of the sampled tiles."""
    if name == report.main.name:
        return {text.image_id: text for text in report.measured[0].sample}
    wanted = {text.image_id for text in report.measured[0].sample}
    return {text.image_id: text for text in report.versions[name].read() if text.image_id in wanted}


def _examples(
    report: ReportInput, texts_by_version: Mapping[str, Mapping[str, ImageCaptions]]
) -> list[dict[str, Any]]:
    """Return a few tiles of each task with their image and their text in every version, drawn at random."""
    if report.dataset is None:
        return [
            {"image": None, "id": text.image_id, "facts": "", "texts": [text.captions[:5]]}
            for text in report.measured[0].sample[:6]
        ]
    tiles = read_tiles(report.dataset).set_index("tile_id")
    chosen: list[ImageCaptions] = []
    for task in FIELDS:
        of_task = [
            text
            for text in report.measured[0].sample
            if text.task == task and all(text.image_id in texts for texts in texts_by_version.values())
        ]
        chosen += of_task[:_EXAMPLES_PER_TASK]
    return [
        {
            "image": tile_url(report.dataset / str(tiles.at[text.image_id, "path"]), _IMAGE_PX),
            "id": text.image_id,
            "facts": _facts(tiles.loc[text.image_id].to_dict(), text),
            "texts": [texts[text.image_id].captions for texts in texts_by_version.values()],
        }
        for text in chosen
    ]


def _scio_decisions(report: ReportInput) -> dict[str, Any] | None:
    """Return the decisions of SCIO with examples; None if SCIO has not screened the texts."""
    decisions = report.dataset and read_scio_decisions(report.dataset, report.main.name)
    if not decisions:
        return None
    assert report.dataset is not None
    tiles = read_tiles(report.dataset, ["tile_id", "path", "scale"]).set_index("tile_id")
    return {
        "total": decisions.total,
        "share": {name: n / sum(decisions.total.values()) for name, n in decisions.total.items()},
        "by_field": decisions.by_field,
        "examples": [
            {
                "id": tile_id,
                "image": tile_url(report.dataset / str(tiles.at[tile_id, "path"]), _IMAGE_PX),
                "facts": f"{task.replace('_', ' ')} · {tiles.at[tile_id, 'scale']!s} tile",
                "rows": rows,
            }
            for tile_id, task, rows in decisions.examples
        ],
    }


def _facts(tile: Mapping[Any, Any], text: ImageCaptions) -> str:
    parts = [
        _TASK_TITLES[text.task] if text.task else "",
        f"{tile['scale']} tile",
        *(tile[key] for key in ("platform", "place", "country") if isinstance(tile[key], str)),
    ]
    return " · ".join(part for part in parts if part)


def _repeated(sample: Sequence[ImageCaptions]) -> list[dict[str, Any]]:
    """Return the most repeated sentences of the sample."""
    counts = Counter(pair for text in sample for pair in text.captions)
    return [
        {"field": field, "text": caption, "share": n / max(len(sample), 1), "n": n}
        for (field, caption), n in counts.most_common(_REPEATED)
        if n > 1
    ]


def _figure_10(
    report: ReportInput, texts_by_version: Mapping[str, Mapping[str, ImageCaptions]]
) -> dict[str, Any] | None:
    """Draw images and texts laid out by t-SNE; None if too few tiles have all texts."""
    if report.dataset is None:
        return None
    tiles = read_tiles(report.dataset, ["tile_id", "path", "ground_id", "valid_fraction", *FEATURES])
    tiles = tiles[tiles["valid_fraction"] >= _MIN_VALID_FRACTION]
    templates = [name for name in texts_by_version if "template" in report.versions[name].about]
    shared = set(tiles["tile_id"]).intersection(*texts_by_version.values())
    # Template texts describe annotated tiles only, so with them only annotated tiles are compared.
    for name in templates:
        shared = {tile_id for tile_id in shared if texts_by_version[name][tile_id].task != "terrain"}
    chosen = sorted(shared, key=lambda tile_id: (random_order(tile_id), tile_id))[:_FIGURE_TILES]
    tiles = tiles.set_index("tile_id").loc[chosen]
    if len(tiles) < image_text_similarity.MIN_TILES or tiles["ground_id"].nunique() < 2:
        return None
    texts = {name: [_whole(of_version[t]) for t in chosen] for name, of_version in texts_by_version.items()}
    found = image_text_similarity.compare_layouts(report.dataset, tiles, texts)
    return {
        "tiles": len(tiles),
        "neighbours": image_text_similarity.NEIGHBOURS,
        "chance": found.chance,
        "features": found.features,
        "template": bool(templates),
        "panels": [
            {
                "p": panel,
                "about": report.versions[panel.name].about if panel.name in report.versions else "",
                "image": png_url(figures.scatter(panel.positions, found.groups)),
            }
            for panel in found.panels
        ],
        "groups": [
            {
                "colour": figures.GROUP_COLOURS[group],
                "image": tile_url(report.dataset / str(tiles["path"].iloc[place]), _THUMBNAIL_PX),
                "count": int((found.groups == group).sum()),
            }
            for group, place in enumerate(found.exemplars)
        ],
    }


def _whole(text: ImageCaptions) -> str:
    return " ".join(f"{field}: {caption}" if field else caption for field, caption in text.captions)
