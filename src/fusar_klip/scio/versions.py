"""SCIO over a whole data set: its decisions become a new text version (formats.md).

The parent version is read part by part, and each part's decisions are a file of their own until all are
there: a pass that was killed goes on where it stood, and memory does not grow with the data set. The same
weights, references, settings and parent give the same version, which is found again instead of made twice.
"""

import hashlib
import json
import logging
import shutil
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
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
from fusar_klip.scio.block import Decision, refine_block
from fusar_klip.scio.scoring import ImageBlock, PairScorer, References
from fusar_klip.scio.screening import ImageText

_log = logging.getLogger(__name__)

PROMPT_VERSION = "scio-2"
"""How segments are judged and the decoder is asked: versions that were made otherwise are not found again."""

# A part is what a killed pass loses at most, and what is held at a time: 1000 tiles are 8000 short rows.
_TILES_PER_PART = 1000
_COUNTS_KEY = b"fusar_klip_scio"


@dataclass(frozen=True)
class RefineSummary:
    """A pass over a data set.

    Attributes:
        dataset: Its folder.
        parent: The text version that was read.
        version: The text version that holds the decisions.
        tiles: Tiles whose texts were judged.
        segments: Segments that were judged.
        kept: Segments that stay as they were.
        noise: Segments that are out of use now.
        reconstructed: Segments that were written anew.
        refused: Segments written anew that were not used, by reason.
        left: Tiles whose texts stay as they were, by reason.
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
    references: References | None = None,
    splits: Collection[str] | None = None,
    ranks: Ranks | None = None,
) -> RefineSummary:
    """Screen and reconstruct the texts of a data set, and write the decisions as a new text version.

    The network is put into evaluation mode for the pass, and back afterwards. Tiles that have no image in the
    cache, or lie in other splits, keep their rows as they are.

    Args:
        dataset: A data set with texts.
        version: The text version to read. Its noise stays out of T, and can be rebuilt.
        network: Judges and writes; on any device.
        tokenizer: Its tokenizer.
        preprocess: Its preprocessing.
        settings: What to do.
        maker: What the version's metadata says of its maker; digests of weights and references are added.
        queue: A queue of momentum features, whose entries are the negatives unless it is empty.
        references: The negatives, where there is no queue; their ids are rows of the tile cache. None:
            features of a sample of the data set's own tiles, training tiles if there are any.
        splits: Only the tiles of these splits are judged; None: all.
        ranks: The processes that share the work; each gives the same arguments, and a whole network.

    Raises:
        DatasetError: The data set or the version is missing or damaged, or there is nothing to judge.
    """
    ranks = ranks or Ranks(0, 1, next(network.parameters()).device)
    was_training = network.training
    network.eval()
    try:
        tiles = _Tiles.open(dataset, preprocess.size, splits)
        if queue is not None and queue.count:
            references = References.of_queue(queue)
        if references is None:
            references = _sample(dataset, version, tiles, network, tokenizer, preprocess, settings)
        # The first process's word holds: rounding may differ from machine to machine, and all have to work in
        # one folder.
        made_by = ranks.first_does(
            lambda: {
                **maker,
                "prompt_version": PROMPT_VERSION,
                "scio": settings.model_dump(mode="json"),
                "splits": None if splits is None else sorted(splits),
                "weights": _digest(dict(network.named_parameters())),
                "references": _digest(vars(references)),
            }
        )
        folder = dataset / "texts" / f".scio-{_key(dataset, version, made_by)}"
        name = ranks.first_does(lambda: _made_before(dataset, version, made_by))
        if name is None:
            worker = _Worker(network, tokenizer, preprocess, settings, references, tiles, made_by["weights"])
            parts = _write_parts(dataset, version, folder, worker, ranks)
            ranks.wait()
            name = ranks.first_does(lambda: _merge(dataset, version, folder, parts, made_by))
        if ranks.first:
            # It may be there from a pass that was killed as soon as its version was.
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        network.train(was_training)
    return _summary(dataset, version, name)


@dataclass(frozen=True)
class _Tiles:
    """Where the pictures of the tiles that are judged are."""

    cache: TileCache
    wanted: frozenset[str]
    train: frozenset[str]
    gsd_m: Mapping[str, float]

    def block(self, tile_ids: Sequence[str], preprocess: Preprocess, device: torch.device) -> ImageBlock:
        """Return the pictures of some tiles; their rows in the cache are their identities, as in a queue."""
        rows = [self.cache.rows[tile_id] for tile_id in tile_ids]
        gsd_m_b = torch.tensor([self.gsd_m[tile_id] for tile_id in tile_ids], device=device)
        return ImageBlock(preprocess.standardise(self.cache.images[rows]).to(device), rows, gsd_m_b)

    @classmethod
    def open(cls, dataset: Path, size: int, splits: Collection[str] | None) -> "_Tiles":
        rows = read_tiles(dataset, ["tile_id", "split", "kept", "gsd_m", "width", "height"])
        cache = open_tile_cache(dataset, size)
        rows = rows[rows["kept"] & rows["tile_id"].isin(list(cache.rows))]
        wanted = rows if splits is None else rows[rows["split"].isin(list(splits))]
        train = rows.loc[rows["split"] == "train", "tile_id"]
        gsd_m = dict(zip(rows["tile_id"], input_gsd_m(rows, size).tolist(), strict=True))
        return cls(cache, frozenset(wanted["tile_id"]), frozenset(train), gsd_m)


@dataclass(frozen=True)
class _Worker:
    """Turns the rows of some tiles into the rows of the new version."""

    network: KlipNetwork
    tokenizer: Tokenizer
    preprocess: Preprocess
    settings: ScioSettings
    references: References
    tiles: _Tiles
    weights: str

    def refine(self, rows: pd.DataFrame) -> tuple[pd.DataFrame, Counter[str]]:
        """Return the new rows, and what was counted."""
        rows = rows.reset_index(drop=True)
        groups = rows.groupby("tile_id", sort=False).indices
        places = {str(tile_id): np.asarray(of_tile) for tile_id, of_tile in groups.items()}
        counts: Counter[str] = Counter()
        judged = [tile_id for tile_id in places if tile_id in self.tiles.wanted]
        for tile_id in places.keys() - self.tiles.wanted:
            unreadable = tile_id in self.tiles.cache.unreadable
            counts["left:unreadable" if unreadable else "left:other split, or not kept"] += 1
        new = rows.copy()
        step = self.settings.images_per_block
        for start in range(0, len(judged), step):
            self._block(new, judged[start : start + step], places, counts)
        return new, counts

    def _block(
        self,
        rows: pd.DataFrame,
        tile_ids: Sequence[str],
        places: Mapping[str, np.ndarray],
        counts: Counter[str],
    ) -> None:
        device = next(self.network.parameters()).device
        scorer = PairScorer(
            self.network,
            self.tokenizer,
            self.tiles.block(tile_ids, self.preprocess, device),
            self.references,
            texts_per_batch=self.settings.texts_per_batch,
        )
        longest = self.network.settings.max_tokens
        texts = [_image_text(rows.iloc[places[t]], self.tokenizer, longest) for t in tile_ids]
        for tile_id, refined in zip(tile_ids, refine_block(scorer, texts, self.settings), strict=True):
            counts["tiles"] += 1
            for attempt in refined.attempts:
                if attempt.refusal is not None:
                    counts[f"refused:{attempt.refusal}"] += 1
            for row, decision in zip(places[tile_id], refined.decisions, strict=True):
                if decision is not None:
                    counts[decision.verdict] += 1
                    self._put(rows, int(row), decision)

    def _put(self, rows: pd.DataFrame, row: int, decision: Decision) -> None:
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


def _image_text(rows: pd.DataFrame, tokenizer: Tokenizer, max_tokens: int) -> ImageText:
    spelled = [f"{name}: {text}" for name, text in zip(rows["field"], rows["text"], strict=True)]
    used = tuple(bool(verdict != "noise") for verdict in rows["verdict"])
    return ImageText(tokenizer.segments(spelled, max_tokens), used)


def _write_parts(dataset: Path, version: str, folder: Path, worker: _Worker, ranks: Ranks) -> int:
    """Write the decisions of each part that is this process's and not there yet; return their number."""
    count = 0
    total = len(worker.tiles.wanted)
    with progress_bar() as bar:
        task = bar.add_task("Refining texts", total=total)
        for number, rows in enumerate(_parts(dataset, version)):
            count = number + 1
            path = _part(folder, number)
            if number % ranks.world == ranks.rank and not path.is_file():
                refined, counts = worker.refine(rows)
                about = {_COUNTS_KEY: json.dumps(counts, sort_keys=True).encode()}
                table = pa.Table.from_pandas(refined, schema=TEXT_SCHEMA, preserve_index=False)
                with replaced(path) as partial:
                    pq.write_table(table.replace_schema_metadata(about), partial, compression="zstd")
            bar.advance(task, len(worker.tiles.wanted.intersection(rows["tile_id"])))
    return count


def _merge(dataset: Path, version: str, folder: Path, parts: int, made_by: Mapping[str, Any]) -> str:
    """Put the parts together as the next text version."""
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
        # The last tile may go on in the next batch.
        while len(seen) > _TILES_PER_PART:
            rows = pd.concat(held, ignore_index=True)
            ids = rows["tile_id"].drop_duplicates()
            taken = rows["tile_id"].isin(ids.iloc[:_TILES_PER_PART])
            yield rows[taken]
            held, seen = [rows[~taken]], set(ids.iloc[_TILES_PER_PART:])
    if seen:
        yield pd.concat(held, ignore_index=True)


def _sample(
    dataset: Path,
    version: str,
    tiles: _Tiles,
    network: KlipNetwork,
    tokenizer: Tokenizer,
    preprocess: Preprocess,
    settings: ScioSettings,
) -> References:
    """Return features of evenly spaced tiles and their texts in use."""
    texts = open_texts(dataset, version)
    there = sorted(set(texts.to_table(["tile_id"])["tile_id"].to_pylist()))
    chosen = [t for t in there if t in tiles.train] or [t for t in there if t in tiles.wanted]
    chosen = evenly(chosen, settings.references)
    rows = texts.to_table(filter=pa.compute.field("tile_id").isin(chosen)).to_pandas()
    rows = rows[rows["verdict"] != "noise"]
    by_tile = dict(iter(rows.groupby("tile_id")))
    chosen = [tile_id for tile_id in chosen if tile_id in by_tile]
    device = next(network.parameters()).device

    def blocks() -> Iterator[tuple[ImageBlock, list[list[int]]]]:
        for start in range(0, len(chosen), settings.images_per_block):
            block = chosen[start : start + settings.images_per_block]
            longest = network.settings.max_tokens
            spelled = [_image_text(by_tile[t], tokenizer, longest).segments for t in block]
            yield tiles.block(block, preprocess, device), [tokenizer.join(s) for s in spelled]

    return References.encode(network, tokenizer, blocks(), settings.texts_per_batch)


def evenly(items: Sequence[str], count: int) -> list[str]:
    """Return at most `count` of `items`, evenly spaced."""
    if len(items) <= count:
        return list(items)
    return [items[place] for place in np.linspace(0, len(items) - 1, count).round().astype(int)]


def _digest(tensors: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


def _key(dataset: Path, version: str, made_by: Mapping[str, Any]) -> str:
    """Return what tells a pass that was killed from any other."""
    about = [version, made_by, sha256(dataset / "tiles.parquet")]
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:12]


def _made_before(dataset: Path, parent: str, made_by: Mapping[str, Any]) -> str | None:
    """Return the version that this pass has made already."""
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
