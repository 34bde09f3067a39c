"""Index and search with a small real network: its checkpoint, tokenizer and preprocessing."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fusar_klip import models
from fusar_klip.errors import CheckpointError
from fusar_klip.models.checkpoint import PREPROCESS, TOKENIZER, WEIGHTS, save_weights
from fusar_klip.search import build_index, search
from fusar_klip.search.index import open_index


@pytest.fixture
def nano_run(tmp_path: Path) -> Path:
    settings = models.ModelSettings(
        image_size=32,
        patch_size=16,
        image_width=16,
        image_depth=1,
        image_heads=2,
        text_width=16,
        text_depth=1,
        text_heads=2,
        embed_dim=8,
        max_tokens=32,
    )
    folder = tmp_path / "run"
    folder.mkdir()
    tokenizer = models.Tokenizer.train(["ships at a quay", "dark water, bright roofs"], 256)
    tokenizer.save(folder / TOKENIZER)
    models.Preprocess(32).save(folder / PREPROCESS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        save_weights(models.KlipNetwork(settings, tokenizer), folder / WEIGHTS)
    return folder


def test_results_are_the_cosines_of_the_model(make_dataset, nano_run, tmp_path):
    dataset = make_dataset([10, 90, 170, 250])
    build_index(dataset, nano_run, tmp_path / "index")
    results = search(tmp_path / "index", "ships at a quay")
    model = models.load(nano_run)
    images = model.embed_image([Path(hit.path) for hit in results.hits])
    cosines = images @ model.embed_text(["ships at a quay"])[0]
    np.testing.assert_allclose([hit.score for hit in results.hits], cosines, atol=1e-6)
    assert list(cosines) == sorted(cosines, reverse=True)


def test_a_tile_given_as_a_query_comes_first(make_dataset, nano_run, tmp_path):
    dataset = make_dataset([10, 90, 170, 250])
    build_index(dataset, nano_run, tmp_path / "index")
    tile = dataset / "tiles" / "scene" / "t001.tif"
    hit = search(tmp_path / "index", str(tile), top=1).hits[0]
    assert (hit.tile_id, hit.score) == ("t001", pytest.approx(1, abs=1e-5))


def test_a_randomly_initialised_model_is_indexed_under_its_own_name(make_dataset, nano_run, tmp_path):
    dataset = make_dataset([10, 90])
    build_index(dataset, nano_run, tmp_path / "trained")
    build_index(dataset, f"untrained:{nano_run}", tmp_path / "untrained")
    trained, untrained = (open_index(tmp_path / name) for name in ("trained", "untrained"))
    assert untrained.checkpoint == f"untrained:{nano_run}"
    assert not np.allclose(trained.vectors.reconstruct_n(0, 2), untrained.vectors.reconstruct_n(0, 2))
    assert search(tmp_path / "untrained", "ships").indexed == 2


def test_a_missing_checkpoint_is_refused_before_writing(make_dataset, tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        build_index(make_dataset([1]), tmp_path / "nowhere", tmp_path / "index")
    assert not (tmp_path / "index").exists()
