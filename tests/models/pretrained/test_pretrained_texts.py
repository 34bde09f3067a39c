"""Text towers of published models: CLIP's against transformers', BLIP's against its parts put together."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import CLIPTokenizer

from fusar_klip.errors import CheckpointError
from fusar_klip.models import ModelRef
from fusar_klip.models.pretrained.clip_text import END, START, clip_tokenizer
from published_checkpoints import (
    BERT_WORDS,
    MERGES,
    WORDS,
    channels,
    clip,
    to_openai,
    vit,
    write_blip,
    write_vocabulary,
)

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
        loaded = ModelRef.parse(f"clip:{tmp_path / 'weights.pt'}").load()
    else:
        model.save_pretrained(tmp_path)
        loaded = ModelRef.parse(f"clip:{tmp_path}").load()
    tile = np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8)
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path)
    for text in TEXTS:
        ids = tokenizer(text)["input_ids"]
        # Twelve places: what is longer is cut, its end mark kept.
        ids = torch.tensor([ids if len(ids) <= 12 else [*ids[:11], ids[-1]]])
        with torch.no_grad():
            outputs = model(input_ids=ids, pixel_values=channels(tile, "clip"))
        np.testing.assert_allclose(loaded.embed_text([text])[0], outputs.text_embeds[0], atol=1e-5)
        np.testing.assert_allclose(loaded.embed_image([tile])[0], outputs.image_embeds[0], atol=1e-4)
    # A text's vector does not depend on its neighbours, and segments are joined.
    np.testing.assert_allclose(loaded.embed_text(TEXTS)[2], loaded.embed_text([""])[0], atol=1e-6)
    np.testing.assert_array_equal(
        loaded.embed_text([("A ship,", "it's")]), loaded.embed_text(["A ship, it's"])
    )


def test_plain_gelu_is_taken_where_the_folder_says_so(tmp_path: Path) -> None:
    model = clip(quick=False)
    model.save_pretrained(tmp_path)
    write_hub_vocabulary(tmp_path)
    tile = np.full((32, 32), 90, np.uint8)
    ids = torch.tensor([CLIPTokenizer.from_pretrained(tmp_path)("a ship")["input_ids"]])
    with torch.no_grad():
        outputs = model(input_ids=ids, pixel_values=channels(tile, "clip"))
    loaded = ModelRef.parse(f"clip:{tmp_path}").load()
    np.testing.assert_allclose(loaded.embed_text(["a ship"])[0], outputs.text_embeds[0], atol=1e-5)
    np.testing.assert_allclose(loaded.embed_image([tile])[0], outputs.image_embeds[0], atol=1e-4)


def test_blip_s_texts_images_and_matching(tmp_path: Path) -> None:
    image, text, linears = write_blip(tmp_path)
    loaded = ModelRef.parse(f"blip:{tmp_path / 'blip.pth'}").load()
    assert loaded.can_match
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
    np.testing.assert_allclose(loaded.embed_text(["A ships"]), written, atol=1e-5)
    np.testing.assert_allclose(loaded.embed_text(["A ships", "water of a road."])[:1], written, atol=1e-5)
    np.testing.assert_allclose(loaded.embed_image([tile]), seen, atol=1e-4)
    np.testing.assert_allclose(loaded.match(tile, ["a ships", "water"])[:1], matched, atol=1e-5)


def test_a_captioning_file_has_no_texts_for_retrieval(tmp_path: Path) -> None:
    state = {f"visual_encoder.{key}": value for key, value in vit().state_dict().items()}
    state["text_decoder.cls.predictions.bias"] = torch.zeros(3)
    torch.save({"model": state}, tmp_path / "caption.pth")
    loaded = ModelRef.parse(f"blip:{tmp_path / 'caption.pth'}").load()
    with pytest.raises(CheckpointError, match="no text tower"):
        loaded.embed_text(["a ship"])
    with pytest.raises(CheckpointError, match="shortlist = 0"):
        loaded.match(np.zeros((64, 64), np.uint8), ["a"])


def test_a_text_tower_without_its_vocabulary_is_a_mendable_error(tmp_path: Path) -> None:
    torch.save(to_openai(clip(quick=True)), tmp_path / "weights.pt")
    loaded = ModelRef.parse(f"clip:{tmp_path / 'weights.pt'}").load()
    with pytest.raises(CheckpointError, match=r"bpe_simple_vocab_16e6\.txt\.gz"):
        loaded.embed_text(["a ship"])
    (tmp_path / "bpe_simple_vocab_16e6.txt").write_text("#version: 0.2\ns h\n")
    with pytest.raises(CheckpointError, match=f"515 entries and the text tower {WORDS}"):
        loaded.embed_text(["a ship"])
    (tmp_path / "bpe_simple_vocab_16e6.txt").unlink()
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match="cannot be read"):
        loaded.embed_text(["a ship"])
    write_blip(tmp_path)
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n")
    with pytest.raises(CheckpointError, match="has 4 words"):
        ModelRef.parse(f"blip:{tmp_path / 'blip.pth'}").load().embed_text(["a"])
    (tmp_path / "vocab.txt").unlink()
    with pytest.raises(CheckpointError, match=r"vocab\.txt there"):
        ModelRef.parse(f"blip:{tmp_path / 'blip.pth'}").load().embed_text(["a"])
