"""`fusar-klip export`: a data set as STAC, as WebDataset shards or as Hugging Face Parquet.

The data set is read part by part, and an export is whole or absent (`folder.replaced_folder`).
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fusar_klip import __version__
from fusar_klip.catalog import read_manifest
from fusar_klip.errors import DatasetError, SettingsError
from fusar_klip.export.folder import replaced_folder, write_marker
from fusar_klip.export.samples import Samples

Format = Literal["stac", "webdataset", "hf"]


@dataclass(frozen=True)
class ExportSummary:
    """What an export holds.

    Attributes:
        out: Its folder.
        to: Its format.
        tiles: How many tiles are in it.
        left_out: How many were not kept, and so are not in it.
        by_split: Tiles by split.
        texts: The text version that went along, None where there is none.
        files: How many files it has.
        bytes: How large they are together.
    """

    out: str
    to: str
    tiles: int
    left_out: int
    by_split: dict[str, int]
    texts: str | None
    files: int
    bytes: int


def export(
    dataset: Path, *, to: Format | str, out: Path, every_tile: bool = False, texts: str | None = None
) -> ExportSummary:
    """Write `dataset` into the folder `out` in another format; an earlier export there is replaced.

    Args:
        dataset: A data set's folder.
        to: The format. STAC holds every tile, with its `kept` flag, and points at the data set's files; the
            others hold the kept tiles themselves, as PNG.
        out: The export's folder.
        every_tile: Also the tiles that screening and quality left out.
        texts: The text version that goes along, such as "v000"; the newest where it is not given.

    Raises:
        SettingsError: There is no such format, or a package that it needs is not installed.
        DatasetError: The data set cannot be read or has no tile to export, or `out` holds something else.
        OSError: The disk is full; `out` is as it was.
    """
    if to not in WRITERS:
        raise SettingsError(f'--to takes {", ".join(WRITERS)}, not "{to}"')
    out = out.resolve()
    manifest = read_manifest(dataset)
    samples = Samples(dataset, kept_only=to != "stac" and not every_tile, texts=texts)
    tiles, tiles_there = samples.count(), Samples(dataset, kept_only=False, texts=samples.texts).count()
    if tiles_there == 0:
        raise DatasetError(f"{dataset} has no tiles: build it from scenes with an image in them")
    if tiles == 0:
        raise DatasetError(f"none of the {tiles_there} tiles of {dataset} is kept: give --every-tile")
    splits = {split: samples.count(split=split) for split in samples.distinct("split")}
    with replaced_folder(out) as folder:
        WRITERS[to](samples, folder, out)
        about = {"made_by": f"fusar-klip {__version__}", "to": to, "tiles": tiles, "by_split": splits}
        write_marker(folder, {**about, "texts": samples.texts, "dataset_tiles": manifest.get("tiles")})
        sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return ExportSummary(
        out=str(out),
        to=to,
        tiles=tiles,
        left_out=tiles_there - tiles,
        by_split=splits,
        texts=samples.texts,
        files=len(sizes),
        bytes=sum(sizes),
    )


def _write_stac(samples: Samples, folder: Path, out: Path) -> None:
    with _extra("stac"):
        from fusar_klip.export.stac import write_stac
    write_stac(samples, folder, out)


def _write_webdataset(samples: Samples, folder: Path, _out: Path) -> None:
    from fusar_klip.export.webdataset import write_webdataset

    write_webdataset(samples, folder)


def _write_huggingface(samples: Samples, folder: Path, _out: Path) -> None:
    with _extra("hf"):
        from fusar_klip.export.huggingface import write_huggingface
    write_huggingface(samples, folder)


WRITERS: Mapping[str, Callable[[Samples, Path, Path], None]] = {
    "stac": _write_stac,
    "webdataset": _write_webdataset,
    "hf": _write_huggingface,
}
"""Writes samples into a folder that will be at the given path."""


@contextmanager
def _extra(to: Format) -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise SettingsError(
            f'--to {to} needs {error.name}, which is not installed: pip install "fusar-klip[export]"'
        ) from error
