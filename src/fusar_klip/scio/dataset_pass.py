"""A SCIO pass over a data set: its decisions become a new text version (docs/formats.md).

The parent version is read in parts of 1000 tiles, and the decisions of each part are written to a file of
their own, so an interrupted pass resumes after its last part, and memory does not grow with the data set. The
same weights, negatives, settings and parent give the same version, which is then found instead of written
twice.
"""

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from fusar_klip.catalog import (
    TEXT_SCHEMA,
    open_texts,
    read_text_metadata,
    read_tiles,
    text_versions,
    write_texts,
)
from fusar_klip.errors import DatasetError
from fusar_klip.files import replaced, sha256
from fusar_klip.models import KlipNetwork, Preprocess, TileCache, Tokenizer, open_tile_cache
from fusar_klip.models.network.queue import FeatureQueue
from fusar_klip.pretrain.data.dataset import input_gsd_m
from fusar_klip.pretrain.distributed import Ranks
from fusar_klip.pretrain.settings import ScioSettings
from fusar_klip.progress import progress_bar
from fusar_klip.scio.algorithm1 import SegmentDecision, refine_batch
from fusar_klip.scio.scoring import ImageBatch, ImageTextScorer, Negatives
from fusar_klip.scio.screening import SegmentedText

PROMPT_VERSION = "scio-2"
"""Identifies the algorithm. Versions of another algorithm are not taken for the result of this one."""

# An interrupted pass loses one part at most, and memory holds one part: 1000 tiles are 8000 short rows.
_TILES_PER_PART = 1000
_COUNTS_KEY = b"fusar_klip_scio"


@dataclass(frozen=True)
class RefineSummary:
    """The result of a pass over a data set.

    Attributes:
        dataset: Folder of the data set.
        parent: The text version that was read.
        version: The text version that holds the decisions.
        tiles: Number of tiles whose texts were judged.
        segments: Number of judged segments.
        kept: Number of segments that stay unchanged.
        noise: Number of segments that are no longer in use.
        reconstructed: Number of segments that were rewritten.
        refused: Number of generated segments that were rejected, by reason.
        left: Number of tiles whose texts stay unchanged, by reason.
    """

    dataset: str
    parent: str
    version: str
    tiles: int
    segments: int
    kept: int
    noise: int
    reconstructed: int
    refused: dict[str, int] = field(default_factory=dict)
    left: dict[str, int] = field(default_factory=dict)


def refine_texts(
    dataset: Path,
    version: str,
    network: KlipNetwork,
    tokenizer: Tokenizer,
    preprocess: Preprocess,
    settings: ScioSettings,
    *,
    maker: Mapping[str, Any],
    queue: FeatureQueue | None = None,
    splits: Collection[str] | None = None,
    ranks: Ranks | None = None,
) -> RefineSummary:
    """Screen and reconstruct the texts of a data set, and write the decisions as a new text version.

    The network is in evaluation mode during the pass; its mode is restored afterwards. Tiles without an image
    in the cache, and tiles of other splits, keep their rows unchanged.

    Args:
        dataset: A data set with texts.
        version: The text version to read. Its noise is not part of T, and can be reconstructed.
        network: The model, on any device.
        tokenizer: Of the model.
        preprocess: Of the model.
        settings: Screening and reconstruction.
        maker: For the metadata of the new version; digests of weights and negatives are added.
        queue: A queue of momentum features, whose entries are the negatives. None or empty: the features of a
            sample of the data set's own tiles, of the training split if it has any.
        splits: Only the tiles of these splits are judged; None: all.
        ranks: The processes that share the work. Each gives the same arguments, and a whole network.

    Raises:
        DatasetError: The data set or the version is missing or damaged, or there is nothing to judge.
    """
    ranks = ranks or Ranks(0, 1, next(network.parameters()).device)
    with _evaluation_mode(network):
        tiles = _Tiles.open(dataset, preprocess.size, splits)
        negatives = (
            Negatives.of_queue(queue)
            if queue is not None and queue.count
            else _sample_negatives(dataset, version, tiles, network, tokenizer, preprocess, settings)
        )
        # All processes use the digests of the first: rounding may differ between machines, and they share a
        # folder.
        identity = {
            **maker,
            "prompt_version": PROMPT_VERSION,
            "scio": settings.model_dump(mode="json"),
            "splits": None if splits is None else sorted(splits),
        }
        made_by = ranks.run_in_first(lambda: identity | _digests(network, negatives))
        folder = dataset / "texts" / f".scio-{_key(dataset, version, made_by)}"
        name = ranks.run_in_first(lambda: _existing_version(dataset, version, made_by))
        if name is None:
            worker = _Worker(network, tokenizer, preprocess, settings, negatives, tiles, made_by["weights"])
            parts = _write_parts(dataset, version, folder, worker, ranks)
            ranks.barrier()
            name = ranks.run_in_first(lambda: _merge(dataset, version, folder, parts, made_by))
        if ranks.first:
            # A pass that was interrupted after writing its version has left the folder.
            shutil.rmtree(folder, ignore_errors=True)
    return _summary(dataset, version, name)


@contextmanager
def _evaluation_mode(network: KlipNetwork) -> Iterator[None]:
    was_training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(was_training)


def _digests(network: KlipNetwork, negatives: Negatives) -> dict[str, str]:
    return {"weights": _digest(dict(network.named_parameters())), "references": _digest(vars(negatives))}


@dataclass(frozen=True)
class _Tiles:
    """The images of the tiles, and which tiles are judged."""

    cache: TileCache
    judged: frozenset[str]
    train: frozenset[str]
    gsd_m: Mapping[str, float]

    def batch(self, tile_ids: Sequence[str], preprocess: Preprocess, device: torch.device) -> ImageBatch:
        """Return the images of some tiles; their identities are their rows in the cache, as in a queue."""
        rows = [self.cache.rows[tile_id] for tile_id in tile_ids]
        gsd_m_b = torch.tensor([self.gsd_m[tile_id] for tile_id in tile_ids], device=device)
        return ImageBatch(preprocess.standardise(self.cache.images[rows]).to(device), rows, gsd_m_b)

    @classmethod
    def open(cls, dataset: Path, size: int, splits: Collection[str] | None) -> "_Tiles":
        rows = read_tiles(dataset, ["tile_id", "split", "kept", "gsd_m", "width", "height"])
        cache = open_tile_cache(dataset, size)
        rows = rows[rows["kept"] & rows["tile_id"].isin(list(cache.rows))]
        judged = rows if splits is None else rows[rows["split"].isin(list(splits))]
        train = rows.loc[rows["split"] == "train", "tile_id"]
        gsd_m = dict(zip(rows["tile_id"], input_gsd_m(rows, size).tolist(), strict=True))
        return cls(cache, frozenset(judged["tile_id"]), frozenset(train), gsd_m)


@dataclass(frozen=True)
class _Worker:
    """Computes the rows of the new version from those of the parent."""

    network: KlipNetwork
    tokenizer: Tokenizer
    preprocess: Preprocess
    settings: ScioSettings
    negatives: Negatives
    tiles: _Tiles
    weights: str

    def refine(self, rows: pd.DataFrame) -> tuple[pd.DataFrame, Counter[str]]:
        """Return the new rows of some tiles, and the counts."""
        rows = rows.reset_index(drop=True)
        groups = rows.groupby("tile_id", sort=False).indices
        rows_of = {str(tile_id): np.asarray(indices) for tile_id, indices in groups.items()}
        counts: Counter[str] = Counter()
        judged = [tile_id for tile_id in rows_of if tile_id in self.tiles.judged]
        for tile_id in rows_of.keys() - self.tiles.judged:
            unreadable = tile_id in self.tiles.cache.unreadable
            counts["left:unreadable" if unreadable else "left:other split, or not kept"] += 1
        new = rows.copy()
        step = self.settings.images_per_block
        for start in range(0, len(judged), step):
            self._refine_batch(new, judged[start : start + step], rows_of, counts)
        return new, counts

    def _refine_batch(
        self,
        rows: pd.DataFrame,
        tile_ids: Sequence[str],
        rows_of: Mapping[str, np.ndarray],
        counts: Counter[str],
    ) -> None:
        device = next(self.network.parameters()).device
        scorer = ImageTextScorer(
            self.network,
            self.tokenizer,
            self.tiles.batch(tile_ids, self.preprocess, device),
            self.negatives,
            texts_per_batch=self.settings.texts_per_batch,
        )
        max_tokens = self.network.settings.max_tokens
        texts = [_segmented_text(rows.iloc[rows_of[t]], self.tokenizer, max_tokens) for t in tile_ids]
        for tile_id, decisions in zip(tile_ids, refine_batch(scorer, texts, self.settings), strict=True):
            counts["tiles"] += 1
            for reconstruction in decisions.reconstructions:
                if reconstruction.rejection is not None:
                    counts[f"refused:{reconstruction.rejection}"] += 1
            for row, decision in zip(rows_of[tile_id], decisions.segments, strict=True):
                if decision is not None:
                    counts[decision.verdict] += 1
                    self._write_row(rows, int(row), decision)

    def _write_row(self, rows: pd.DataFrame, row: int, decision: SegmentDecision) -> None:
        values: dict[str, Any] = {
            "verdict": decision.verdict,
            "delta_itc": decision.delta_itc,
            "delta_itm": decision.delta_itm,
            "itm_score": decision.itm_score,
        }
        if decision.text is not None:
            values |= {
                "previous": rows.at[row, "text"],
                "text": decision.text,
                "source": f"scio/{self.weights}",
                "prompt_version": PROMPT_VERSION,
            }
        for name, value in values.items():
            rows.at[row, name] = value


def _segmented_text(rows: pd.DataFrame, tokenizer: Tokenizer, max_tokens: int) -> SegmentedText:
    segments = [f"{name}: {text}" for name, text in zip(rows["field"], rows["text"], strict=True)]
    in_use = tuple(bool(verdict != "noise") for verdict in rows["verdict"])
    return SegmentedText(tokenizer.segments(segments, max_tokens), in_use)


def _write_parts(dataset: Path, version: str, folder: Path, worker: _Worker, ranks: Ranks) -> int:
    """Write the missing parts of this process; return the number of all parts."""
    count = 0
    total = len(worker.tiles.judged)
    with progress_bar() as bar:
        task = bar.add_task("Refining texts", total=total)
        for number, rows in enumerate(_parts(dataset, version)):
            count = number + 1
            path = _part(folder, number)
            if number % ranks.world_size == ranks.rank and not path.is_file():
                refined, counts = worker.refine(rows)
                about = {_COUNTS_KEY: json.dumps(counts, sort_keys=True).encode()}
                table = pa.Table.from_pandas(refined, schema=TEXT_SCHEMA, preserve_index=False)
                with replaced(path) as partial:
                    pq.write_table(table.replace_schema_metadata(about), partial, compression="zstd")
            bar.advance(task, len(worker.tiles.judged.intersection(rows["tile_id"])))
    return count


def _merge(dataset: Path, version: str, folder: Path, parts: int, made_by: Mapping[str, Any]) -> str:
    """Write the parts as the next text version."""
    counts: Counter[str] = Counter()
    for number in range(parts):
        about = pq.read_schema(_part(folder, number)).metadata
        counts.update(json.loads(about[_COUNTS_KEY]))
    if not counts["tiles"]:
        raise DatasetError(
            f"{dataset} has no text of {version} to judge: describe it, or choose other splits or texts"
        )
    name = f"v{1 + max(int(known[1:]) for known in text_versions(dataset)):03d}"
    frames = (pq.read_table(_part(folder, number)).to_pandas() for number in range(parts))
    write_texts(
        dataset, name, frames, parent=version, maker={**made_by, "counts": dict(sorted(counts.items()))}
    )
    return name


def _part(folder: Path, number: int) -> Path:
    return folder / f"part_{number:06d}.parquet"


def _parts(dataset: Path, version: str) -> Iterator[pd.DataFrame]:
    """Yield the rows of `_TILES_PER_PART` tiles at a time, in file order."""
    held: list[pd.DataFrame] = []
    seen: set[str] = set()
    for batch in open_texts(dataset, version).to_batches(batch_size=8 * _TILES_PER_PART):
        held.append(batch.to_pandas())
        seen.update(held[-1]["tile_id"])
        # The rows of the last tile may continue in the next batch.
        while len(seen) > _TILES_PER_PART:
            rows = pd.concat(held, ignore_index=True)
            ids = rows["tile_id"].drop_duplicates()
            in_part = rows["tile_id"].isin(ids.iloc[:_TILES_PER_PART])
            yield rows[in_part]
            held, seen = [rows[~in_part]], set(ids.iloc[_TILES_PER_PART:])
    if seen:
        yield pd.concat(held, ignore_index=True)


def _sample_negatives(
    dataset: Path,
    version: str,
    tiles: _Tiles,
    network: KlipNetwork,
    tokenizer: Tokenizer,
    preprocess: Preprocess,
    settings: ScioSettings,
) -> Negatives:
    """Return the features of evenly spaced tiles and of their texts in use."""
    texts = open_texts(dataset, version)
    described = sorted(set(texts.to_table(["tile_id"])["tile_id"].to_pylist()))
    chosen = [t for t in described if t in tiles.train] or [t for t in described if t in tiles.judged]
    chosen = evenly_spaced(chosen, settings.references)
    rows = texts.to_table(filter=pa.compute.field("tile_id").isin(chosen)).to_pandas()
    rows = rows[rows["verdict"] != "noise"]
    by_tile = dict(iter(rows.groupby("tile_id")))
    chosen = [tile_id for tile_id in chosen if tile_id in by_tile]
    device = next(network.parameters()).device

    def batches() -> Iterator[tuple[ImageBatch, list[list[int]]]]:
        for start in range(0, len(chosen), settings.images_per_block):
            tile_ids = chosen[start : start + settings.images_per_block]
            max_tokens = network.settings.max_tokens
            segments = [_segmented_text(by_tile[t], tokenizer, max_tokens).segments for t in tile_ids]
            yield tiles.batch(tile_ids, preprocess, device), [tokenizer.join(each) for each in segments]

    return Negatives.encode(network, tokenizer, batches(), settings.texts_per_batch)


def evenly_spaced(items: Sequence[str], count: int) -> list[str]:
    """Return at most `count` of `items`, evenly spaced."""
    if len(items) <= count:
        return list(items)
    return [items[i] for i in np.linspace(0, len(items) - 1, count).round().astype(int)]


def _digest(tensors: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


def _key(dataset: Path, version: str, made_by: Mapping[str, Any]) -> str:
    """Return a digest that identifies a pass, so that an interrupted one is resumed."""
    about = [version, made_by, sha256(dataset / "tiles.parquet")]
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:12]


def _existing_version(dataset: Path, parent: str, made_by: Mapping[str, Any]) -> str | None:
    """Return the version that an earlier run of this pass has written; None if there is none."""
    for name in text_versions(dataset):
        about = read_text_metadata(dataset, name)
        maker = {key: value for key, value in (about["maker"] or {}).items() if key != "counts"}
        if about["parent"] == parent and maker == dict(made_by):
            return name
    return None


def _summary(dataset: Path, parent: str, name: str) -> RefineSummary:
    counts: dict[str, int] = read_text_metadata(dataset, name)["maker"]["counts"]

    def starting(prefix: str) -> dict[str, int]:
        return {key.removeprefix(prefix): n for key, n in counts.items() if key.startswith(prefix) and n}

    kept, noise, new = (counts.get(verdict, 0) for verdict in ("kept", "noise", "reconstructed"))
    return RefineSummary(
        dataset=str(dataset),
        parent=parent,
        version=name,
        tiles=counts["tiles"],
        segments=kept + noise + new,
        kept=kept,
        noise=noise,
        reconstructed=new,
        refused=starting("refused:"),
        left=starting("left:"),
    )
