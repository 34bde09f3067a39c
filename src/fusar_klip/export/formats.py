"""`fusar-klip export`: write a data set as STAC, as WebDataset shards or as Hugging Face Parquet.

The data set is read in batches. An export is complete or absent (`folder.atomic_folder`).
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fusar_klip import __version__
from fusar_klip.catalog import read_manifest
from fusar_klip.errors import DatasetError, SettingsError
from fusar_klip.export.folder import atomic_folder, write_export_manifest
from fusar_klip.export.tile_reader import TileReader

Format = Literal["stac", "webdataset", "hf"]


@dataclass(frozen=True)
class ExportSummary:
    """The content of an export.

    Attributes:
        out: Its folder.
        to: Its format.
        tiles: Number of exported tiles.
        left_out: Number of tiles that `build` did not keep, and that are therefore not exported.
        by_split: Number of tiles by split.
        texts: The exported text version; None if the data set has no texts.
        files: Number of files.
        bytes: Total size of the files.
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
        to: The format. STAC describes every tile, with its `kept` flag, and links to the data set's files;
            the others contain the kept tiles as PNG.
        out: The export's folder.
        every_tile: Also export the tiles that screening and quality checks did not keep.
        texts: The text version to export, such as "v000"; None: the newest.

    Raises:
        SettingsError: The format is unknown, or a package that it needs is not installed.
        DatasetError: The data set cannot be read or has no tile to export, or `out` holds other files.
        OSError: The disk is full; `out` is unchanged.
    """
    if to not in WRITERS:
        raise SettingsError(f'--to takes {", ".join(WRITERS)}, not "{to}"')
    out = out.resolve()
    manifest = read_manifest(dataset)
    reader = TileReader(dataset, kept_only=to != "stac" and not every_tile, texts=texts)
    tiles = reader.count()
    all_tiles = TileReader(dataset, kept_only=False, texts=reader.text_version).count()
    if all_tiles == 0:
        raise DatasetError(f"{dataset} has no tiles: build it from scenes that contain an image")
    if tiles == 0:
        raise DatasetError(f"none of the {all_tiles} tiles of {dataset} is kept: give --every-tile")
    splits = {split: reader.count(split=split) for split in reader.distinct("split")}
    with atomic_folder(out) as folder:
        WRITERS[to](reader, folder, out)
        about = {"made_by": f"fusar-klip {__version__}", "to": to, "tiles": tiles, "by_split": splits}
        write_export_manifest(
            folder, {**about, "texts": reader.text_version, "dataset_tiles": manifest.get("tiles")}
        )
        sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return ExportSummary(
        out=str(out),
        to=to,
        tiles=tiles,
        left_out=all_tiles - tiles,
        by_split=splits,
        texts=reader.text_version,
        files=len(sizes),
        bytes=sum(sizes),
    )


def _write_stac(reader: TileReader, folder: Path, out: Path) -> None:
    with _extra("stac"):
        from fusar_klip.export.stac import write_stac
    write_stac(reader, folder, out)


def _write_webdataset(reader: TileReader, folder: Path, _out: Path) -> None:
    from fusar_klip.export.webdataset import write_webdataset

    write_webdataset(reader, folder)


def _write_huggingface(reader: TileReader, folder: Path, _out: Path) -> None:
    with _extra("hf"):
        from fusar_klip.export.huggingface import write_huggingface
    write_huggingface(reader, folder)


WRITERS: Mapping[str, Callable[[TileReader, Path, Path], None]] = {
    "stac": _write_stac,
    "webdataset": _write_webdataset,
    "hf": _write_huggingface,
}
"""By format: (reader, folder to write into, the path at which that folder will be in the end)."""


@contextmanager
def _extra(to: Format) -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise SettingsError(
            f'--to {to} needs {error.name}, which is not installed: pip install "fusar-klip[export]"'
        ) from error
