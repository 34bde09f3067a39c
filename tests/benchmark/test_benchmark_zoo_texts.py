"""The zoo's text towers: CLIP's against transformers' CLIP, BLIP's against its parts put together."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import BlipTextConfig, CLIPTokenizer
from transformers.models.blip.modeling_blip_text import BlipTextModel
from zoo_checkpoints import MERGES, WIDTH, WORDS, channels, clip, shaken, to_openai, vit, write_vocabulary

from fusar_klip.benchmark import benchmark
from fusar_klip.errors import CheckpointError
from fusar_klip.models import ModelRef
from fusar_klip.models.pretrained.clip_text import END, START, clip_tokenizer

TEXTS = ("A ship, it's 30 m long!", "  the SEA\nand naïve ships é", "")


def write_hub_vocabulary(folder: Path) -> None:
    """Write vocab.json and merges.txt, as the hub has them."""
    write_vocabulary(folder)
    vocabulary = clip_tokenizer(folder).get_vocab()
    (folder / "bpe_simple_vocab_16e6.txt").unlink()
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in MERGES))


def test_the_vocabulary_is_openai_s_in_each_of_its_files(tmp_path: Path) -> None:
    write_vocabulary(tmp_path)
    plain = clip_tokenizer(tmp_path)
    vocabulary = plain.get_vocab()
    # OpenAI's order: printing bytes, shifted bytes, the same at a word's end, merges, marks.
    assert [vocabulary[word] for word in ("!", "a", "!</w>", "sh")] == [0, 64, 256, 512]
    assert (vocabulary[START], vocabulary[END]) == (WORDS - 2, WORDS - 1)
    expected = [plain.encode(text).ids for text in TEXTS]
    text = (tmp_path / "bpe_simple_vocab_16e6.txt").read_text()
    (tmp_path / "bpe_simple_vocab_16e6.txt").unlink()
    (tmp_path / "bpe_simple_vocab_16e6.txt.gz").write_bytes(gzip.compress(text.encode()))
    assert [clip_tokenizer(tmp_path).encode(text).ids for text in TEXTS] == expected
    (tmp_path / "bpe_simple_vocab_16e6.txt.gz").unlink()
    write_hub_vocabulary(tmp_path)
    assert [clip_tokenizer(tmp_path).encode(text).ids for text in TEXTS] == expected
    theirs = CLIPTokenizer.from_pretrained(tmp_path)
    assert [theirs(text)["input_ids"][1:-1] for text in TEXTS] == expected
    theirs.save_pretrained(tmp_path / "other")
    (tmp_path / "only").mkdir()
    (tmp_path / "other" / "tokenizer.json").rename(tmp_path / "only" / "tokenizer.json")
    assert [clip_tokenizer(tmp_path / "only").encode(text).ids for text in TEXTS] == expected


@pytest.mark.parametrize("layout", ["openai", "transformers"])
def test_clip_s_texts_and_images_meet_where_clip_puts_them(layout: str, tmp_path: Path) -> None:
    model = clip(quick=True)
    write_hub_vocabulary(tmp_path)
    if layout == "openai":
        torch.save(to_openai(model), tmp_path / "weights.pt")
        zoo = ModelRef.parse(f"clip:{tmp_path / 'weights.pt'}").load()
    else:
        model.save_pretrained(tmp_path)
        zoo = ModelRef.parse(f"clip:{tmp_path}").load()
    tile = np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8)
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path)
    for text in TEXTS:
        ids = tokenizer(text)["input_ids"]
        # Twelve places: what is longer is cut, its end mark kept.
        ids = torch.tensor([ids if len(ids) <= 12 else [*ids[:11], ids[-1]]])
        with torch.no_grad():
            outputs = model(input_ids=ids, pixel_values=channels(tile, "clip"))
        np.testing.assert_allclose(zoo.embed_text([text])[0], outputs.text_embeds[0], atol=1e-5)
        np.testing.assert_allclose(zoo.embed_image([tile])[0], outputs.image_embeds[0], atol=1e-4)
    # A text's vector does not depend on its neighbours, and segments are joined.
    np.testing.assert_allclose(zoo.embed_text(TEXTS)[2], zoo.embed_text([""])[0], atol=1e-6)
    np.testing.assert_array_equal(zoo.embed_text([("A ship,", "it's")]), zoo.embed_text(["A ship, it's"]))


def test_plain_gelu_is_taken_where_the_folder_says_so(tmp_path: Path) -> None:
    model = clip(quick=False)
    model.save_pretrained(tmp_path)
    write_hub_vocabulary(tmp_path)
    tile = np.full((32, 32), 90, np.uint8)
    ids = torch.tensor([CLIPTokenizer.from_pretrained(tmp_path)("a ship")["input_ids"]])
    with torch.no_grad():
        outputs = model(input_ids=ids, pixel_values=channels(tile, "clip"))
    zoo = ModelRef.parse(f"clip:{tmp_path}").load()
    np.testing.assert_allclose(zoo.embed_text(["a ship"])[0], outputs.text_embeds[0], atol=1e-5)
    np.testing.assert_allclose(zoo.embed_image([tile])[0], outputs.image_embeds[0], atol=1e-4)


BERT_WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "ship", "##s", "of", "0", "road", "water", "."]


def write_blip(folder: Path) -> tuple[nn.Module, BlipTextModel, dict[str, nn.Linear]]:
    """Write BLIP's retrieval file, and return its parts."""
    image = vit()
    config = BlipTextConfig(
        vocab_size=len(BERT_WORDS) + 2, hidden_size=WIDTH, encoder_hidden_size=WIDTH,
        intermediate_size=4 * WIDTH, num_hidden_layers=2, num_attention_heads=1, max_position_embeddings=64,
    )  # fmt: skip
    text = BlipTextModel(config, add_pooling_layer=False)
    shaken(text)
    linears = {
        "vision_proj": nn.Linear(WIDTH, 16),
        "text_proj": nn.Linear(WIDTH, 16),
        "itm_head": nn.Linear(WIDTH, 2),
    }
    state = {f"visual_encoder.{key}": value for key, value in image.state_dict().items()}
    state |= {f"text_encoder.{key}": value for key, value in text.state_dict().items()}
    state |= {f"text_encoder_m.{key}": value * 0 for key, value in text.state_dict().items()}
    state["text_encoder.embeddings.position_ids"] = torch.arange(64)[None]
    for name, linear in linears.items():
        state |= {f"{name}.{key}": value for key, value in shaken(linear).state_dict().items()}
    torch.save(
        {"model": state | {"image_queue": torch.zeros(16, 9), "temp": torch.tensor(0.07)}},
        folder / "blip.pth",
    )
    (folder / "vocab.txt").write_text("\n".join(BERT_WORDS) + "\n")
    return image, text, linears


def test_blip_s_texts_images_and_matching(tmp_path: Path) -> None:
    image, text, linears = write_blip(tmp_path)
    zoo = ModelRef.parse(f"blip:{tmp_path / 'blip.pth'}").load()
    assert zoo.can_match
    tile = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    with torch.no_grad():
        ids = torch.tensor([[2, 4, 5, 6, 3]])
        tokens = image.forward_features(channels(tile, "blip"))
        states = text(input_ids=ids, attention_mask=torch.ones_like(ids), is_decoder=False).last_hidden_state
        written = F.normalize(linears["text_proj"](states[:, 0]), dim=-1)
        seen = F.normalize(linears["vision_proj"](tokens[:, 0]), dim=-1)
        ids[0, 0] = len(BERT_WORDS) + 1
        fused = text(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            encoder_hidden_states=tokens,
            is_decoder=False,
        ).last_hidden_state
        matched = linears["itm_head"](fused[:, 0]).softmax(1)[:, 1]
    np.testing.assert_allclose(zoo.embed_text(["A ships"]), written, atol=1e-5)
    np.testing.assert_allclose(zoo.embed_text(["A ships", "water of a road."])[:1], written, atol=1e-5)
    np.testing.assert_allclose(zoo.embed_image([tile]), seen, atol=1e-4)
    np.testing.assert_allclose(zoo.match(tile, ["a ships", "water"])[:1], matched, atol=1e-5)


def test_a_captioning_file_has_no_texts_for_retrieval(tmp_path: Path) -> None:
    state = {f"visual_encoder.{key}": value for key, value in vit().state_dict().items()}
    state["text_decoder.cls.predictions.bias"] = torch.zeros(3)
    torch.save({"model": state}, tmp_path / "caption.pth")
    zoo = ModelRef.parse(f"blip:{tmp_path / 'caption.pth'}").load()
    with pytest.raises(CheckpointError, match="no text tower"):
        zoo.embed_text(["a ship"])
    with pytest.raises(CheckpointError, match="shortlist = 0"):
        zoo.match(np.zeros((64, 64), np.uint8), ["a"])


def test_a_text_tower_without_its_vocabulary_is_a_mendable_error(tmp_path: Path) -> None:
    torch.save(to_openai(clip(quick=True)), tmp_path / "weights.pt")
    zoo = ModelRef.parse(f"clip:{tmp_path / 'weights.pt'}").load()
    with pytest.raises(CheckpointError, match=r"bpe_simple_vocab_16e6\.txt\.gz"):
        zoo.embed_text(["a ship"])
    (tmp_path / "bpe_simple_vocab_16e6.txt").write_text("#version: 0.2\ns h\n")
    with pytest.raises(CheckpointError, match=f"515 entries and the text tower {WORDS}"):
        zoo.embed_text(["a ship"])
    (tmp_path / "bpe_simple_vocab_16e6.txt").unlink()
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match="cannot be read"):
        zoo.embed_text(["a ship"])
    write_blip(tmp_path)
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n")
    with pytest.raises(CheckpointError, match="has 4 words"):
        ModelRef.parse(f"blip:{tmp_path / 'blip.pth'}").load().embed_text(["a"])
    (tmp_path / "vocab.txt").unlink()
    with pytest.raises(CheckpointError, match=r"vocab\.txt there"):
        ModelRef.parse(f"blip:{tmp_path / 'blip.pth'}").load().embed_text(["a"])


def test_retrieval_beside_our_own(
    tmp_path: Path, data_folder: Path, write_suite: Callable[..., Path], run: str
) -> None:
    (tmp_path / "clip").mkdir()
    (tmp_path / "blip").mkdir()
    torch.save(to_openai(clip(quick=True)), tmp_path / "clip" / "weights.pt")
    write_vocabulary(tmp_path / "clip")
    write_blip(tmp_path / "blip")
    models = [run, f"remoteclip:{tmp_path / 'clip' / 'weights.pt'}", f"blip:{tmp_path / 'blip' / 'blip.pth'}"]
    summary = benchmark(models, tmp_path / "out", suite=write_suite(), data=data_folder, tasks=["retrieval"])
    assert {line["model"] for line in summary.headlines} == {"run", "remoteclip:weights.pt", "blip:blip.pth"}
    results = json.loads(Path(summary.results).read_text())
    found = {(e["model"], e["metric"]): e["value"] for e in results}
    for metric in ("image_to_text_r5", "text_to_image_r5"):
        # No head for matching: the second pass keeps the order of the first, and the report says so.
        assert found["remoteclip:weights.pt", metric] == found["remoteclip:weights.pt", f"{metric}_reranked"]
    page = Path(summary.report_md).read_text()
    assert "remoteclip:weights.pt: has no matching head" in page
    assert "blip:blip.pth: has no matching head" not in page
