"""WordPiece tokenizer for texts that consist of segments.

A text is `[CLS] segment [SEP] segment [SEP] ...`. A number is one word, so that 0.5 is decoded as 0.5:
neither '.' nor ':' is stripped, and the pieces of a number belong to one word (`0`, `##.`, `##5`).
"""

import json
import re
import string
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Self

import tokenizers
import torch
from tokenizers import Regex, models, normalizers, pre_tokenizers, trainers
from torch import Tensor

from fusar_klip.errors import CheckpointError, SettingsError
from fusar_klip.files import write_bytes

PAD, UNKNOWN, CLS, SEP, MASK = SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

# A number with its sign, point or colon is one word; then runs of letters, then single punctuation marks.
_WORD = r"(?<!\w)[-−]\d+(?:[.:]\d+)*|\d+(?:[.:]\d+)+|\w+|[^\w\s]"
# These characters are always in the vocabulary, at the start of a word and inside it.
_ALPHABET = string.ascii_lowercase + string.digits + string.punctuation

Segments = list[list[int]]
"""Token ids of each segment of one text, without special tokens."""


class SpecialTokens(NamedTuple):
    """Ids of the special tokens."""

    pad_id: int
    unknown_id: int
    cls_id: int
    sep_id: int
    mask_id: int

    @property
    def never_written(self) -> tuple[int, ...]:
        """The special tokens that no decoder may generate: all but [SEP]."""
        return self.pad_id, self.unknown_id, self.cls_id, self.mask_id


class Tokenizer:
    """A WordPiece vocabulary and the rules that split texts into its tokens.

    Args:
        vocabulary: The tokens in order of their ids; holds `SPECIAL_TOKENS`, and [PAD] stands first.
    """

    def __init__(self, vocabulary: Sequence[str]) -> None:
        ids = {token: index for index, token in enumerate(vocabulary)}
        if missing := [token for token in SPECIAL_TOKENS if token not in ids]:
            raise SettingsError(
                f"the vocabulary lacks {', '.join(missing)}: give a BERT WordPiece vocabulary"
            )
        if ids[PAD] != 0:
            raise SettingsError("the vocabulary's first token is not [PAD]: give a BERT WordPiece vocabulary")
        self.vocabulary = tuple(vocabulary)
        self.special = SpecialTokens(*(ids[token] for token in SPECIAL_TOKENS))
        self.pad_id, _, self.cls_id, self.sep_id, self.mask_id = self.special
        self.colon_id = ids.get(":", ids[UNKNOWN])
        self._engine = _engine(models.WordPiece(ids, unk_token=UNKNOWN))

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int = 8192) -> Self:
        """Learn a vocabulary of at most `vocab_size` tokens; the same texts give the same vocabulary."""
        # A letter's id depends on where the trainer meets it first, and the order of words is not fixed: so
        # the letters are given in advance.
        letters = [*_ALPHABET, *(f"##{letter}" for letter in _ALPHABET)]
        engine = _engine(models.WordPiece(unk_token=UNKNOWN))
        trainer = trainers.WordPieceTrainer(
            vocab_size=max(vocab_size, len(SPECIAL_TOKENS) + len(letters)),
            min_frequency=2,
            special_tokens=[*SPECIAL_TOKENS, *letters],
            show_progress=False,
        )
        engine.train_from_iterator(texts, trainer)
        ids = engine.get_vocab()
        return cls(sorted(ids, key=ids.__getitem__))

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """Read a `vocab.txt` (one token a line, BERT's) or a `tokenizer.json` of a RUN.

        Raises:
            CheckpointError: The file is missing or no vocabulary.
        """
        try:
            content = path.read_text(encoding="utf-8")
            if path.suffix != ".json":
                # Not `splitlines`: a token of the vocabulary may be another line separator.
                return cls(content.removesuffix("\n").split("\n"))
            return cls(json.loads(content)["vocabulary"])
        except OSError as error:
            raise CheckpointError(
                f"cannot read the tokenizer {path}: {error.strerror}; give a vocab.txt such as BERT's, or a "
                "RUN's tokenizer.json"
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{path} is no tokenizer: give a RUN's tokenizer.json or vocab.txt"
            ) from error

    def save(self, path: Path) -> None:
        """Write the vocabulary as JSON, atomically."""
        document = {"kind": "wordpiece", "vocabulary": list(self.vocabulary)}
        write_bytes(path, (json.dumps(document, ensure_ascii=False, indent=0) + "\n").encode())

    def __len__(self) -> int:
        """Return the number of tokens."""
        return len(self.vocabulary)

    def segments(self, segments: Sequence[str], max_tokens: int) -> Segments:
        """Return the ids of each segment, such that all fit `max_tokens` once joined.

        If the text is too long, the longest segments are truncated to one common length. A subset of the
        segments never contains a token that the whole text has lost (decisions.md, "Truncation while
        screening").
        """
        encodings = self._engine.encode_batch(list(segments), add_special_tokens=False)
        lengths = [len(encoding.ids) for encoding in encodings]
        budget = _common_budget(lengths, max_tokens - 1 - len(lengths))
        return [encoding.ids[:budget] for encoding in encodings]

    def join(self, segments: Iterable[Sequence[int]]) -> list[int]:
        """Return `[CLS] segment [SEP] segment [SEP] ...` as ids."""
        ids = [self.cls_id]
        for segment in segments:
            ids += [*segment, self.sep_id]
        return ids

    def encode(self, text: str | Sequence[str], max_tokens: int) -> list[int]:
        """Return the ids of one text: a string is one segment, a list of strings is its segments.

        At most `max_tokens`: the last segments are dropped if not each would get a token and a separator.
        """
        parts = [text] if isinstance(text, str) else text[: (max_tokens - 1) // 2]
        return self.join(self.segments(parts, max_tokens))

    def pad(self, texts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Return ids (B, L) int64, padded to the longest, and their mask (B, L) int64, 1 = token."""
        longest = max(map(len, texts), default=0)
        ids = torch.full((len(texts), longest), self.pad_id, dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for row, text in enumerate(texts):
            ids[row, : len(text)] = torch.as_tensor(text, dtype=torch.int64)
            mask[row, : len(text)] = 1
        return ids, mask

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of `ids`, lower case, numbers unchanged; separators become "; "."""
        text = " ".join(self._words(ids))
        text = re.sub(r" ([.,:;!?%)\]])", r"\1", text)
        text = re.sub(r"([(\[]) ", r"\1", text)
        text = re.sub(r"(\w) ([-/]) (\w)", r"\1\2\3", text)
        return text.replace(f" {SEP} ", "; ").removesuffix(f" {SEP}")

    def _words(self, ids: Iterable[int]) -> Iterator[str]:
        word = ""
        for index in ids:
            token = self.vocabulary[index]
            if token in (PAD, CLS):
                continue
            if token.startswith("##") and word:
                word += token[2:]
                continue
            if word:
                yield word
            word = token
        if word:
            yield word


def _engine(model: models.WordPiece) -> tokenizers.Tokenizer:
    engine = tokenizers.Tokenizer(model)
    engine.normalizer = normalizers.BertNormalizer(lowercase=True)
    engine.pre_tokenizer = pre_tokenizers.Split(Regex(_WORD), behavior="removed", invert=True)
    return engine


def _common_budget(lengths: Sequence[int], room: int) -> int:
    """Return the largest b with sum(min(length, b)) <= room, or the longest length if all fit."""
    left = max(room, 0)
    for place, length in enumerate(sorted(lengths)):
        share = left // (len(lengths) - place)
        if length > share:
            return share
        left -= length
    return max(lengths, default=0)
