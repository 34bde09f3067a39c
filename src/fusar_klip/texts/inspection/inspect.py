"""The verb `inspect`: statistics of the texts of a data set or of caption files, and the HTML report."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fusar_klip.errors import DatasetError, SettingsError
from fusar_klip.files import write_bytes
from fusar_klip.progress import track
from fusar_klip.texts.inspection.caption_sources import CaptionSource, dataset_sources, file_source
from fusar_klip.texts.inspection.report import ReportInput, report_html
from fusar_klip.texts.inspection.statistics import CaptionStatistics, measure_captions


@dataclass(frozen=True)
class InspectSummary:
    """Result of `inspect`.

    Attributes:
        inspected: The data set or file.
        texts: The text version, or the name of the file.
        report: The report's file; None if none was written.
        sets: Statistics of it, then of the sets that it is compared with.
    """

    inspected: str
    texts: str
    report: str | None
    sets: list[CaptionStatistics]


def inspect(
    source: Path,
    *,
    out: Path | None = None,
    version: str | None = None,
    against: Sequence[Path] = (),
    column: str | None = None,
) -> InspectSummary:
    """Compute statistics of texts, and write a report if `out` is given.

    Args:
        source: A data set's folder, or a caption file (CSV, TSV, JSON, JSON lines, Parquet, text).
        out: The report, a self-contained HTML file.
        version: The text version; None: the newest. The data set's other versions
            are compared with it.
        against: Further caption files, or data sets (their newest texts), to be compared with it.
        column: Column or key of the captions in files; None: one of the usual names.

    Raises:
        SettingsError: A file is missing or holds no captions, or the data set has no such version.
        DatasetError: A folder is no data set, or one without texts.
    """
    own = _of(source, column)
    if version is not None and version not in [s.name for s in own]:
        raise SettingsError(f"{source} has no texts {version}: there are {', '.join(s.name for s in own)}")
    main = next(s for s in reversed(own) if version in (None, s.name))
    others = [s for s in own if s is not main]
    for path in against:
        newest = _of(path, column)[-1]
        others.append(replace(newest, name=f"{path.name} {newest.name}") if path.is_dir() else newest)
    measured = [measure_captions(s) for s in track([main, *others], "measuring texts")]
    if measured[0].statistics.captions == 0:
        raise DatasetError(f"the texts {main.name} of {source} are empty: describe the data set again")
    if out is not None:
        dataset = source if source.is_dir() else None
        versions = {s.name: s for s in own} if dataset else {}
        html = report_html(ReportInput(source.resolve().name, dataset, main, versions, measured))
        write_bytes(out, html.encode())
    return InspectSummary(
        inspected=str(source),
        texts=main.name,
        report=None if out is None else str(out),
        sets=[m.statistics for m in measured],
    )


def _of(path: Path, column: str | None) -> list[CaptionSource]:
    return [file_source(path, column)] if path.is_file() or path.suffix else dataset_sources(path)
