from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fusar_klip.models import Preprocess, Tokenizer, open_tile_cache
from fusar_klip.models.losses import IGNORED
from fusar_klip.pretrain.batches import Batch, Batches
from fusar_klip.pretrain.corpus import (
    SegmentTable,
    TextedTiles,
    measure_preprocess,
    read_segments,
    read_split,
    training_texts,
)
from fusar_klip.pretrain.settings import MaskSettings

MakeBatches = Callable[..., Batches]


@pytest.fixture(scope="module")
def tokenizer(blobs: Path) -> Tokenizer:
    return Tokenizer.train(training_texts(blobs, read_segments(blobs, "v000")), 256)


@pytest.fixture(scope="module")
def tiles(blobs: Path, tokenizer: Tokenizer) -> TextedTiles:
    segments = read_segments(blobs, "v000")
    return read_split(blobs, "train", segments, tokenizer, image_size=32, max_tokens=64)


@pytest.fixture
def make(tiles: TextedTiles, tokenizer: Tokenizer) -> MakeBatches:
    def batches(min_segments: int | None = 1, seed: int = 0) -> Batches:
        return Batches(
            tiles, tokenizer, Preprocess(32), MaskSettings(),
            batch_size=8, min_segments=min_segments, seed=seed,
        )  # fmt: skip

    return batches


def same(one: Batch, other: Batch) -> bool:
    return all(torch.equal(a, b) for a, b in zip(vars(one).values(), vars(other).values(), strict=True))


def test_a_batch_is_a_function_of_seed_and_step(make: MakeBatches) -> None:
    forward, backward = make(), make()
    steps = [0, 5, 6, 13]
    there = {step: forward.at(step) for step in steps}
    assert all(same(there[step], backward.at(step)) for step in reversed(steps))
    assert not same(there[0], make(seed=1).at(0))
    assert not torch.equal(there[0].tile_ids, there[6].tile_ids)


def test_an_epoch_shows_each_tile_once_at_most(make: MakeBatches, tiles: TextedTiles) -> None:
    batches = make()
    assert batches.steps_per_epoch == 6
    for epoch in range(2):
        shown = torch.cat([batches.at(epoch * 6 + step).tile_ids for step in range(6)]).tolist()
        assert len(set(shown)) == 48
        assert set(shown) <= set(tiles.rows.tolist())


def test_texts_are_subsets_of_the_segments_in_any_order(
    make: MakeBatches, tiles: TextedTiles, tokenizer: Tokenizer
) -> None:
    places = {int(row): place for place, row in enumerate(tiles.rows)}
    counts, moved = set(), False
    for step in range(24):
        batch = make().at(step)
        for row, ids in zip(batch.tile_ids.tolist(), batch.text, strict=True):
            own = [tuple(segment) for segment in tiles.segments[places[row]]]
            shown = tokenizer.decode(ids.tolist()).split("; ")
            known = [tokenizer.decode(segment) for segment in own]
            assert set(shown) <= set(known)
            assert len(set(shown)) == len(shown)
            order = [known.index(part) for part in shown]
            moved |= order != sorted(order)
            counts.add(len(shown))
    assert counts == {1, 2, 3, 4}
    assert moved


def test_whole_texts_keep_their_order(make: MakeBatches, tiles: TextedTiles, tokenizer: Tokenizer) -> None:
    batch = make(min_segments=None).of(np.arange(3), step=0)
    for place in range(3):
        ids = tokenizer.join(tiles.segments[place])
        assert batch.text[place, : len(ids)].tolist() == ids
        assert batch.text_mask[place].sum() == len(ids)


def test_the_decoder_s_input_is_its_labels_one_step_late(make: MakeBatches, tokenizer: Tokenizer) -> None:
    batch = make().at(0)
    for given_ids, labels, masked in zip(
        batch.decoder_input.tolist(), batch.decoder_labels.tolist(), batch.masked.tolist(), strict=True
    ):
        wanted = [label for label in labels if label != IGNORED]
        assert wanted
        assert given_ids[: len(wanted)] == [tokenizer.cls_id, *wanted[:-1]]
        assert wanted.count(tokenizer.sep_id) == masked.count(tokenizer.mask_id)


def test_images_are_the_tiles(make: MakeBatches, blobs: Path) -> None:
    batch = make().at(0)
    cache = open_tile_cache(blobs, 32)
    expected = Preprocess(32).standardise(cache.images[batch.tile_ids.numpy()])
    assert torch.equal(batch.images, expected)
    assert batch.images.shape == (8, 1, 32, 32)


def test_validation_stays_out_of_vocabulary_and_training(blobs: Path, tiles: TextedTiles) -> None:
    assert len(tiles) == 50
    assert len(training_texts(blobs, read_segments(blobs, "v000"))) == 200
    assert not set(tiles.rows.tolist()) & set(range(5, 60, 6))


def test_mean_and_spread_are_those_of_the_valid_training_pixels(blobs: Path, tiles: TextedTiles) -> None:
    preprocess = measure_preprocess(blobs, 32)
    pixels = tiles.images[tiles.rows] / 255
    assert preprocess.mean == pytest.approx(pixels[pixels > 0].mean(), abs=1e-4)
    assert preprocess.std == pytest.approx(pixels[pixels > 0].std(), abs=1e-4)


segments = st.lists(st.lists(st.integers(0, 9), max_size=5), max_size=4)


@given(st.lists(segments, max_size=6))
def test_the_segment_table_gives_back_what_it_was_given(texts: list[list[list[int]]]) -> None:
    table = SegmentTable(texts)
    assert [table[index] for index in range(len(table))] == texts
