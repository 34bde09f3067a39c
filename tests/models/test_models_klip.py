import contextlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import fusar_klip
from fusar_klip.catalog import TARGET_FIELDS, TERRAIN_FIELDS
from fusar_klip.errors import CheckpointError, DatasetError
from fusar_klip.models import Klip, KlipNetwork, Preprocess, Tokenizer, load
from fusar_klip.models.captioning import GenerationConfig
from fusar_klip.models.checkpoint import save_run, save_weights


@pytest.fixture
def run(network: KlipNetwork, tokenizer: Tokenizer, tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    tokenizer.save(folder / "tokenizer.json")
    Preprocess(32, 0.3, 0.2).save(folder / "preprocess.json")
    save_weights(network, folder / "model.safetensors")
    return folder


@pytest.fixture
def images() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (40, 50), dtype=np.uint8) for _ in range(3)]


def test_load_gives_the_same_model(
    run: Path, network: KlipNetwork, tokenizer: Tokenizer, images: list[np.ndarray]
) -> None:
    own = Klip(network, Preprocess(32, 0.3, 0.2), tokenizer)
    for name in (run, str(run), run / "model.safetensors"):
        np.testing.assert_array_equal(load(name).embed_image(images), own.embed_image(images))
    np.testing.assert_array_equal(fusar_klip.load(run).embed_text(["sea"]), own.embed_text(["sea"]))


def test_weights_are_the_same_bytes_each_time(run: Path, network: KlipNetwork, tmp_path: Path) -> None:
    save_weights(network, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()


def test_embeddings(run: Path, images: list[np.ndarray], tmp_path: Path) -> None:
    model = load(run)
    Image.fromarray(images[0]).save(tmp_path / "tile.tif")
    mixed = [tmp_path / "tile.tif", Image.fromarray(images[1]), np.repeat(images[2][..., None], 3, axis=2)]
    features = model.embed_image(mixed)
    assert features.shape == (3, 16)
    assert features.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(features, model.embed_image(images), atol=1e-6)
    assert model.features(images).shape == (3, 24)
    assert model.embed_image([]).shape == (0, 16)
    assert model.features([]).shape == (0, 24)
    assert model.embed_text([]).shape == (0, 16)


def test_one_text_and_one_path_need_no_list(run: Path, images: list[np.ndarray], tmp_path: Path) -> None:
    model = load(run)
    np.testing.assert_array_equal(model.embed_text("two ships"), model.embed_text(["two ships"]))
    path = tmp_path / "tile.png"
    Image.fromarray(images[0]).save(path)
    for given in (path, str(path)):
        np.testing.assert_array_equal(model.embed_image(given), model.embed_image([path]))
        np.testing.assert_array_equal(model.features(given), model.features([path]))


def test_more_images_and_texts_than_a_batch(run: Path) -> None:
    model = load(run)
    many = np.random.default_rng(0).integers(0, 256, (70, 32, 32), dtype=np.uint8)
    np.testing.assert_allclose(model.embed_image(many)[66:], model.embed_image(many[66:]), atol=1e-6)
    words = [f"{number} ships" for number in range(70)]
    np.testing.assert_allclose(model.embed_text(words)[66:], model.embed_text(words[66:]), atol=1e-6)


def test_segments_and_their_joined_text_differ_by_the_separator(run: Path) -> None:
    one, two = load(run).embed_text([["Count: 3", "Size: long"], "Count: 3 Size: long"])
    assert not np.allclose(one, two)


def test_match_is_a_probability(run: Path, images: list[np.ndarray]) -> None:
    model = load(run)
    one = model.match(images[0], "ships")
    assert isinstance(one, float)
    assert 0 < one < 1
    assert model.match(images[0], ["ships", ["a", "b"]])[0] == pytest.approx(one, abs=1e-6)
    assert model.match(images[0], []).shape == (0,)


def test_untrained_is_fresh_and_always_the_same(run: Path, images: list[np.ndarray]) -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    fresh = load(f"untrained:{run}")
    assert torch.equal(torch.get_rng_state(), state)
    assert fresh.preprocess == load(run).preprocess
    assert not np.allclose(fresh.embed_image(images), load(run).embed_image(images))
    torch.manual_seed(6)
    np.testing.assert_array_equal(fresh.embed_image(images), load(f"untrained:{run}").embed_image(images))


def test_a_pretrained_model_writes_the_fields_of_one_schema(run: Path, images: list[np.ndarray]) -> None:
    model = load(run)
    text = model.caption(images[0])
    fields = [line.partition(": ")[0] for line in text.splitlines()]
    assert fields
    assert any(set(fields) <= set(schema) for schema in (TARGET_FIELDS, TERRAIN_FIELDS))
    assert text == model.caption(images[0])
    with pytest.raises(CheckpointError, match="not fine-tuned on questions"):
        model.ask(images[0], "How many?")


def test_a_fine_tuned_model_says_what_it_has_learnt(
    run: Path, images: list[np.ndarray], tmp_path: Path
) -> None:
    model = load(run)
    for of, wrong in (("questions", "caption"), ("captions", "ask")):
        model.generation = GenerationConfig(of, 24, 2)  # type: ignore[arg-type]
        save_run(model, tmp_path / of)
        again = load(tmp_path / of)
        assert again.generation == model.generation
        said = again.ask(images[0], "How many ships?") if of == "questions" else again.caption(images[0])
        assert isinstance(said, str)
        assert "[SEP]" not in said
        with pytest.raises(CheckpointError, match="fine-tuned on questions"):
            again.caption(images[0]) if wrong == "caption" else again.ask(images[0], "?")
    assert load(f"untrained:{tmp_path / 'captions'}").generation is None
    (tmp_path / "captions" / "speaks.json").write_text("[1]")
    with pytest.raises(CheckpointError, match=r"speaks\.json"):
        load(tmp_path / "captions")


def test_bad_checkpoints(run: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        load(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"has no model\.safetensors.*--resume"):
        load(tmp_path / "empty")
    weights = run / "model.safetensors"
    good = weights.read_bytes()
    for content in (b"", b"not weights at all", good[: len(good) // 2]):
        weights.write_bytes(content)
        with pytest.raises(CheckpointError, match="is no safetensors file"):
            load(run)
    save_file({"x": torch.zeros(1)}, weights)
    with pytest.raises(CheckpointError, match="is no FUSAR-KLIP checkpoint"):
        load(weights)
    weights.write_bytes(good)
    for content in ('{"size": "a"}', "[]", "{"):
        (run / "preprocess.json").write_text(content)
        with pytest.raises(CheckpointError, match=r"is no preprocess\.json of a run"):
            load(run)
    (run / "preprocess.json").unlink()
    with pytest.raises(CheckpointError, match=r"preprocess\.json"):
        load(run)


def test_weights_of_another_shape(run: Path) -> None:
    weights = run / "model.safetensors"
    header = json.loads(weights.read_bytes()[8:].split(b"}}", 1)[0] + b"}}")
    state = load_file(weights)
    state["matching_head.weight"] = torch.zeros(2, 5)
    save_file(state, weights, header["__metadata__"])
    with pytest.raises(CheckpointError, match=r"does not fit.*matching_head\.weight"):
        load(run)
    del state["matching_head.weight"]
    save_file(state, weights, header["__metadata__"])
    with pytest.raises(CheckpointError, match="does not fit"):
        load(run)


def test_bad_images(tmp_path: Path) -> None:
    preprocess = Preprocess(32)
    (tmp_path / "text.tif").write_text("no image")
    with pytest.raises(DatasetError, match="not a readable image"):
        preprocess(tmp_path / "text.tif")
    with pytest.raises(DatasetError, match="no image at"):
        preprocess(tmp_path / "missing.tif")
    with pytest.raises(DatasetError, match="uint8"):
        preprocess(np.zeros((4, 4), np.float32))


def test_chips_of_any_depth_are_mapped_to_amplitude(tmp_path: Path) -> None:
    """16-bit chips differ from those of 8 bits by their scale alone: three times the mean is white."""
    grey = np.array([[0, 10], [20, 30]], np.uint8).repeat(16, 0).repeat(16, 1)  # 20 where there is data
    deep = grey.astype(np.uint16) * 300
    Image.fromarray(deep).save(tmp_path / "deep.tif")
    Image.fromarray(deep).save(tmp_path / "deep.png")
    Image.fromarray(deep.astype(np.float32)).save(tmp_path / "float.tif")
    expected = np.where(grey, 1 + np.rint(grey * (254 / 60)), 0).astype(np.uint8)
    for image in (tmp_path / "deep.tif", str(tmp_path / "deep.png"), tmp_path / "float.tif"):
        assert np.array_equal(Preprocess(32).resize(image), expected)
    with Image.open(tmp_path / "deep.png") as picture:
        assert np.array_equal(Preprocess(32).resize(picture), expected)


def test_whatever_the_damage_does_to_the_reader_one_sentence_says_it(tmp_path: Path) -> None:
    """Pillow raises ValueError, SyntaxError and errors of its own, and not only OSError, for broken files."""
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "huge.bmp")
    content = bytearray((tmp_path / "huge.bmp").read_bytes())
    content[18:26] = b"\x00\x00\x01\x00\x00\x00\x01\x00"  # 65,536 x 65,536
    (tmp_path / "huge.bmp").write_bytes(content)
    with pytest.raises(
        DatasetError, match=r"huge\.bmp is too large.*: cut it into tiles with fusar-klip build"
    ):
        Preprocess(32)(tmp_path / "huge.bmp")
    (tmp_path / "odd.ppm").write_bytes(b"P5 4 x4 255 " + bytes(16))
    for name in ("odd.ppm", "a\0b.png"):
        with pytest.raises(DatasetError, match=r"not a readable image.*: replace or remove it"):
            Preprocess(32)(tmp_path / name)
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (20, 20), np.uint8)).save(tmp_path / "good.tif")
    good = (tmp_path / "good.tif").read_bytes()
    for _ in range(150):
        damaged = bytearray(good)
        for place in rng.integers(0, len(good), 8):
            damaged[place] = rng.integers(256)
        (tmp_path / "damaged.tif").write_bytes(damaged)
        with contextlib.suppress(DatasetError):
            assert Preprocess(32)(tmp_path / "damaged.tif").shape == (1, 32, 32)


def test_preprocess_averages_when_it_shrinks(tmp_path: Path) -> None:
    pixels = np.zeros((64, 64), np.uint8)
    pixels[::2, ::2] = 200
    small = Preprocess(16).resize(pixels)
    assert small.dtype == np.uint8
    # A quarter of the pixels are 200: nearest neighbours would give 0 or 200.
    assert 40 <= small.min() <= small.max() <= 60
    tensor = Preprocess(16, mean=0.2, std=0.1)(small)
    assert tensor.shape == (1, 16, 16)
    np.testing.assert_allclose(tensor[0].numpy(), (small / 255 - 0.2) / 0.1, rtol=1e-4, atol=1e-5)


def test_models_needs_no_raster_library() -> None:
    code = (
        "import sys; import fusar_klip.models, fusar_klip.pretrain;"
        "print([m for m in ('rasterio', 'geopandas', 'shapely') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
