import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusar_klip.errors import CheckpointError, SettingsError
from fusar_klip.models import Tokenizer

TEXT = ["Count: 3 ships at 0.5 m", "Location: near Los Angeles, -12.5 dB (urban) at 12:30."]


def test_numbers_come_back_as_they_were(tokenizer: Tokenizer) -> None:
    decoded = tokenizer.decode(tokenizer.encode(TEXT, 64))
    assert decoded == "count: 3 ships at 0.5 m; location: near los angeles, -12.5 db (urban) at 12:30."


@given(st.floats(-1e4, 1e4).map(lambda value: f"{value:.2f}"))
def test_any_number_comes_back(tokenizer: Tokenizer, number: str) -> None:
    assert tokenizer.decode(tokenizer.encode(f"at {number} m", 64)) == f"at {number} m"


def test_words_that_were_never_seen_are_spelled(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode(tokenizer.encode("zebra/quay", 64)) == "zebra/quay"


def test_segments_end_with_a_separator(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(["a", "b"], 64)
    assert ids[0] == tokenizer.cls_id
    assert [place for place, token in enumerate(ids) if token == tokenizer.sep_id] == [2, 4]
    assert tokenizer.encode("", 64) == [tokenizer.cls_id, tokenizer.sep_id]
    assert tokenizer.encode([], 64) == [tokenizer.cls_id]
    # More segments than there is room for: each one that is left says something.
    many = tokenizer.encode(["a"] * 700, 64)
    assert many == tokenizer.encode(["a"] * 31, 64)
    assert len(many) == 63


@given(
    lengths=st.lists(st.integers(0, 60), min_size=1, max_size=8),
    max_tokens=st.integers(16, 160),
)
def test_segments_fit_and_use_the_room(tokenizer: Tokenizer, lengths: list[int], max_tokens: int) -> None:
    texts = [" ".join("a" * length) for length in lengths]
    cut = [len(segment) for segment in tokenizer.segments(texts, max_tokens)]
    joined = len(tokenizer.join(tokenizer.segments(texts, max_tokens)))
    assert joined <= max_tokens
    if cut != lengths:
        # One budget for all: what was cut is the longest left, and less than one token each is unused.
        assert all(short in (length, max(cut)) for short, length in zip(cut, lengths, strict=True))
        assert max_tokens - joined < len(lengths)


def test_leaving_a_segment_out_lets_no_cut_token_in(tokenizer: Tokenizer) -> None:
    texts = [" ".join("a" * 30), " ".join("b" * 30), "c"]
    whole = tokenizer.segments(texts, 40)
    assert len(whole[0]) < 30
    assert tokenizer.join(whole[:1] + whole[2:]) == [
        tokenizer.cls_id, *whole[0], tokenizer.sep_id, *whole[2], tokenizer.sep_id
    ]  # fmt: skip


def test_padding(tokenizer: Tokenizer) -> None:
    ids, mask = tokenizer.pad([[5, 6, 7], [8]])
    assert ids.tolist() == [[5, 6, 7], [8, 0, 0]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert tokenizer.pad([])[0].shape == (0, 0)


def test_the_same_texts_give_the_same_vocabulary_in_another_process(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from fusar_klip.models.tokenizer import Tokenizer;"
        "words = [f'{a}{b}{c}' for a in 'abcdefg' for b in 'hijklm' for c in 'nopqrs'];"
        "Tokenizer.train(words * 2, 400).save(Path(sys.argv[1]))"
    )
    digests = set()
    for name in ("one.json", "two.json"):
        subprocess.run([sys.executable, "-c", code, str(tmp_path / name)], check=True)
        digests.add(hashlib.sha256((tmp_path / name).read_bytes()).hexdigest())
    assert len(digests) == 1


def test_save_and_read(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "tokenizer.json")
    assert Tokenizer.from_file(tmp_path / "tokenizer.json").vocabulary == tokenizer.vocabulary


def test_a_vocab_txt_is_read(tmp_path: Path) -> None:
    words = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ":", "ship", "##s", "0", "##.", "##5"]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
    tokenizer = Tokenizer.from_file(tmp_path / "vocab.txt")
    assert tokenizer.encode("Ships: 0.5", 64) == [3, 7, 8, 6, 9, 10, 11, 4]
    # Other marks that end a line are tokens like all others, and move no id.
    (tmp_path / "vocab.txt").write_text("\n".join([*words[:6], "\u2028", *words[6:]]) + "\n")
    assert Tokenizer.from_file(tmp_path / "vocab.txt").vocabulary[7:] == tuple(words[6:])


@pytest.mark.real_data
def test_bert_vocabulary(real_data: Path) -> None:
    tokenizer = Tokenizer.from_file(real_data / "text" / "vocab.txt")
    assert len(tokenizer) == 30_522
    assert tokenizer.decode(tokenizer.encode(TEXT, 64)).startswith("count: 3 ships at 0.5 m; location:")


def test_a_wrong_vocabulary_is_refused(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("[PAD]\nship\n")
    with pytest.raises(SettingsError, match="lacks"):
        Tokenizer.from_file(tmp_path / "vocab.txt")
    (tmp_path / "tokenizer.json").write_text("[]")
    with pytest.raises(CheckpointError, match="no tokenizer"):
        Tokenizer.from_file(tmp_path / "tokenizer.json")
    with pytest.raises(CheckpointError, match="cannot read"):
        Tokenizer.from_file(tmp_path / "missing.txt")
