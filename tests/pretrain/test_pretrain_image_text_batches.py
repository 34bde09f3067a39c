from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fusar_klip.models import Preprocess, Tokenizer, open_tile_cache
from fusar_klip.models.losses import IGNORE_INDEX
from fusar_klip.pretrain.data.dataset import (
    ImageTextTiles,
    SegmentTable,
    measure_preprocess,
    read_segments,
    read_split,
    training_texts,
)
from fusar_klip.pretrain.data.image_text_batches import ImageTextBatch, ImageTextBatches
from fusar_klip.pretrain.settings import MaskSettings

MakeBatches = Callable[..., ImageTextBatches]


@pytest.fixture(scope="module")
def tokenizer(blobs: Path) -> Tokenizer:
    return Tokenizer.train(training_texts(blobs, read_segments(blobs, "v000")), 256)


@pytest.fixture(scope="module")
def tiles(blobs: Path, tokenizer: Tokenizer) -> ImageTextTiles:
    segments = read_segments(blobs, "v000")
    return read_split(blobs, "train", segments, tokenizer, image_size=32, max_tokens=64)


@pytest.fixture
def make(tiles: ImageTextTiles, tokenizer: Tokenizer) -> MakeBatches:
    def batches(min_segments: int | None = 1, seed: int = 0, **options: Any) -> ImageTextBatches:
        values = {"batch_size": 8, "min_segments": min_segments, "seed": seed} | options
        return ImageTextBatches(
            values.pop("tiles", tiles), tokenizer, Preprocess(32), MaskSettings(), **values
        )

    return batches


def same(one: ImageTextBatch, other: ImageTextBatch) -> bool:
    pairs = zip(vars(one).values(), vars(other).values(), strict=True)
    return all(torch.equal(a.nan_to_num(-1), b.nan_to_num(-1)) for a, b in pairs)


def only(parts: list[ImageTextBatch]) -> ImageTextBatch:
    (batch,) = parts
    return batch


def test_a_batch_is_a_function_of_seed_and_step(make: MakeBatches) -> None:
    forward, backward = make(), make()
    steps = [0, 5, 6, 13]
    there = {step: only(forward.micro_batches(step)) for step in steps}
    assert all(same(there[step], only(backward.micro_batches(step))) for step in reversed(steps))
    assert not same(there[0], only(make(seed=1).micro_batches(0)))
    assert not torch.equal(there[0].tile_ids, there[6].tile_ids)


def test_an_epoch_uses_each_tile_at_most_once(make: MakeBatches, tiles: ImageTextTiles) -> None:
    batches = make()
    assert batches.steps_per_epoch == 6
    for epoch in range(2):
        shown = torch.cat(
            [only(batches.micro_batches(epoch * 6 + step)).tile_ids for step in range(6)]
        ).tolist()
        assert len(set(shown)) == 48
        assert set(shown) <= set(tiles.rows.tolist())


def test_texts_are_random_subsets_of_the_segments(
    make: MakeBatches, tiles: ImageTextTiles, tokenizer: Tokenizer
) -> None:
    places = {int(row): place for place, row in enumerate(tiles.rows)}
    counts, moved = set(), False
    for step in range(24):
        batch = only(make().micro_batches(step))
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


def test_whole_texts_keep_their_order(make: MakeBatches, tiles: ImageTextTiles, tokenizer: Tokenizer) -> None:
    batch = make(min_segments=None).collate(np.arange(3), step=0)
    for place in range(3):
        ids = tokenizer.join(tiles.segments[place])
        assert batch.text[place, : len(ids)].tolist() == ids
        assert batch.text_mask[place].sum() == len(ids)


def test_decoder_input_is_the_shifted_labels(make: MakeBatches, tokenizer: Tokenizer) -> None:
    batch = only(make().micro_batches(0))
    for given_ids, labels, masked in zip(
        batch.decoder_input.tolist(), batch.decoder_labels.tolist(), batch.masked.tolist(), strict=True
    ):
        wanted = [label for label in labels if label != IGNORE_INDEX]
        assert wanted
        assert given_ids[: len(wanted)] == [tokenizer.cls_id, *wanted[:-1]]
        assert wanted.count(tokenizer.sep_id) == masked.count(tokenizer.mask_id)


def test_images_are_the_tiles(make: MakeBatches, blobs: Path) -> None:
    batch = only(make().micro_batches(0))
    cache = open_tile_cache(blobs, 32)
    expected = Preprocess(32).standardise(cache.images[batch.tile_ids.numpy()])
    assert torch.equal(batch.images, expected)
    assert batch.images.shape == (8, 1, 32, 32)


def test_validation_stays_out_of_vocabulary_and_training(blobs: Path, tiles: ImageTextTiles) -> None:
    assert len(tiles) == 50
    assert len(training_texts(blobs, read_segments(blobs, "v000"))) == 200
    assert not set(tiles.rows.tolist()) & set(range(5, 60, 6))


def test_mean_and_std_are_those_of_the_valid_training_pixels(blobs: Path, tiles: ImageTextTiles) -> None:
    preprocess = measure_preprocess(blobs, 32)
    pixels = tiles.images[tiles.rows] / 255
    assert preprocess.mean == pytest.approx(pixels[pixels > 0].mean(), abs=1e-4)
    assert preprocess.std == pytest.approx(pixels[pixels > 0].std(), abs=1e-4)


def test_shares_of_all_processes_are_the_batch_of_one_process(make: MakeBatches) -> None:
    alone = only(make().micro_batches(3))
    parts = [make(accumulate=2, rank=rank, world_size=2).micro_batches(3) for rank in range(2)]
    assert [len(batch.tile_ids) for own in parts for batch in own] == [2, 2, 2, 2]
    rows = [parts[rank][part] for part in range(2) for rank in range(2)]
    assert torch.equal(torch.cat([batch.tile_ids for batch in rows]), alone.tile_ids)
    assert torch.equal(torch.cat([batch.draws for batch in rows]), alone.draws)
    assert torch.equal(torch.cat([batch.images for batch in rows]), alone.images)
    for start, batch in zip(range(0, 8, 2), rows, strict=True):
        # A process pads to its own longest text; segments and masks are the same.
        for mine, of_all in ((batch.text, alone.text), (batch.decoder_labels, alone.decoder_labels)):
            width = mine.shape[1]
            assert torch.equal(mine, of_all[start : start + 2, :width])
            assert not (of_all[start : start + 2, width:] > 0).any()


def test_draws_are_in_0_to_1_and_differ_by_step_and_tile(make: MakeBatches) -> None:
    batches = make()
    draws = torch.cat([batch.draws for step in range(60) for batch in batches.micro_batches(step)])
    assert draws.dtype == torch.float32
    assert 0 <= draws.min() < 0.02
    assert 0.98 < draws.max() < 1
    assert len(draws.flatten().unique()) > 900


def test_texts_of_similar_length_share_a_batch(make: MakeBatches, tiles: ImageTextTiles) -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 60, 1600)
    table = SegmentTable([[[7] * int(length)] for length in lengths])
    rows = np.arange(1600)
    many = replace(
        tiles, rows=rows, segments=table, gsd_m=np.ones(1600, np.float32), tile_ids=rows.astype(object)
    )
    buckets = make(tiles=many, bucket_batches=16, batch_size=8)
    plain = make(tiles=many, bucket_batches=1, batch_size=8)

    def padded(batches: ImageTextBatches, epoch: int) -> int:
        steps = range(epoch * 200, (epoch + 1) * 200)
        return sum(8 * int(lengths[batches.tile_indices(step)].max()) for step in steps)

    assert padded(buckets, 0) < 1.15 * lengths.sum()
    assert padded(plain, 0) > 1.6 * lengths.sum()
    first, second = (
        {tuple(sorted(buckets.tile_indices(step))) for step in range(epoch * 200, epoch * 200 + 200)}
        for epoch in (0, 1)
    )
    assert sorted(place for batch in first for place in batch) == list(range(1600))
    assert not first & second, "a tile meets others in the next epoch"
    # Neither batches nor rows are in order of length.
    longest = [int(lengths[buckets.tile_indices(step)].max()) for step in range(200)]
    assert np.mean(np.diff(longest) > 0) == pytest.approx(0.5, abs=0.15)
    firsts = [
        lengths[buckets.tile_indices(step)][0] >= np.median(lengths[buckets.tile_indices(step)])
        for step in range(200)
    ]
    assert 0.3 < np.mean(firsts) < 0.8


def test_few_batches_are_not_sorted(make: MakeBatches) -> None:
    assert all(
        np.array_equal(make(bucket_batches=16).tile_indices(s), make().tile_indices(s)) for s in range(12)
    )


def test_noise_is_shown_and_never_masked(
    make: MakeBatches, tiles: ImageTextTiles, tokenizer: Tokenizer
) -> None:
    noisy = replace(tiles, noise={0: frozenset({1, 3}), 2: frozenset({0, 1, 2, 3})})
    for step in range(20):
        batch = make(tiles=noisy, min_segments=4).collate(np.array([0, 1, 2]), step)
        for row, place in enumerate((0, 1, 2)):
            shown = tokenizer.decode(batch.text[row].tolist())
            read = batch.masked[row].tolist()
            for number, segment in enumerate(tiles.segments[place]):
                name = tokenizer.decode(segment).split(":")[0] + ":"
                assert name in shown
                assert (name in tokenizer.decode(read)) == (number not in noisy.noise.get(place, ()))
        # All of the third text is noise: nothing of it is masked.
        assert (batch.decoder_labels[2] == IGNORE_INDEX).all()
        assert (batch.decoder_labels[0] != IGNORE_INDEX).any()
    alone = make(tiles=noisy).collate(np.array([2, 2]), 0)
    assert (alone.decoder_labels == IGNORE_INDEX).all()
    assert alone.decoder_labels.shape == alone.decoder_input.shape


def test_empty_and_very_long_texts(make: MakeBatches, tiles: ImageTextTiles, tokenizer: Tokenizer) -> None:
    empty = tokenizer.segments(["Count: ", "Size: "], 64)
    long = tokenizer.segments(["Count: " + "ship " * 5000, "Size: 40 m", *["Region: sea"] * 6], 64)
    table = SegmentTable([[], empty, long, *(tiles.segments[place] for place in range(3, len(tiles)))])
    odd = make(tiles=replace(tiles, segments=table), min_segments=8)
    for step in range(5):
        batch = odd.collate(np.arange(4), step)
        assert batch.text[0].tolist()[:2] == [tokenizer.cls_id, tokenizer.pad_id]
        assert batch.text_mask.sum(1).tolist()[2] == 64
        assert batch.masked_mask.sum(1).max() <= 64
        assert (batch.decoder_labels[:2] == IGNORE_INDEX).all()
        assert (batch.decoder_labels[2:] != IGNORE_INDEX).any(1).all()


def test_the_ground_spacing_is_that_of_the_resized_pixels(tiles: ImageTextTiles) -> None:
    # Every third tile says 10 m at 40 px; the input has 32.
    known = tiles.gsd_m[tiles.rows % 3 == 0]
    assert known == pytest.approx(np.full(len(known), 12.5))
    assert np.isnan(tiles.gsd_m[tiles.rows % 3 != 0]).all()


def test_ground_spacing_is_hidden_for_one_training_tile_in_ten(
    tiles: ImageTextTiles, make: MakeBatches
) -> None:
    known = replace(tiles, gsd_m=np.full_like(tiles.gsd_m, 3.0))
    training = torch.cat([only(make(tiles=known).micro_batches(step)).gsd_m for step in range(300)])
    assert set(training[training.isfinite()].tolist()) == {3.0}
    assert float(training.isnan().float().mean()) == pytest.approx(0.1, abs=0.03)
    validation = make(tiles=known, min_segments=None)
    assert all(only(validation.micro_batches(step)).gsd_m.isfinite().all() for step in range(50))


@pytest.mark.parametrize("workers", [0, 2])
def test_prefetched_batches_are_the_same(make: MakeBatches, workers: int) -> None:
    batches = make()
    ahead = batches.prefetch(range(4, 9), workers)
    assert all(same(only(next(ahead)), only(make().micro_batches(step))) for step in range(4, 9))
    assert next(ahead, None) is None


segments = st.lists(st.lists(st.integers(0, 9), max_size=5), max_size=4)


@given(st.lists(segments, max_size=6))
def test_segment_table_round_trip(texts: list[list[list[int]]]) -> None:
    table = SegmentTable(text for text in texts)  # one after the other: a million lists need not be held
    assert [table[index] for index in range(len(table))] == texts
