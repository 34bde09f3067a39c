"""CLIP's text tower and its vocabulary; tensors have the names of OpenAI and open_clip."""

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import tokenizers
import torch
import torch.nn.functional as F
from tokenizers import Regex, models, normalizers, pre_tokenizers
from torch import Tensor, nn

from fusar_klip.errors import CheckpointError
from fusar_klip.models.pretrained.key_layouts import clip_text_tower
from fusar_klip.models.pretrained.state_dict import load_tensors
from fusar_klip.models.pretrained.towers import ADVICE

# B texts, L tokens, D text width, E shared length

START, END = "<|startoftext|>", "<|endoftext|>"
VOCABULARY = "bpe_simple_vocab_16e6.txt"
# Merges of that file that OpenAI uses: 49152 entries less two bytes' alphabets and the two marks.
_MERGES = 49_152 - 2 * 256 - 2
_WORD = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"


class _Block(nn.Module):
    def __init__(self, width: int, quick_gelu: bool) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, max(1, width // 64), batch_first=True)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(width, 4 * width), "c_proj": nn.Linear(4 * width, width)})
        self.quick_gelu = quick_gelu

    def forward(self, states_bld: Tensor, mask_ll: Tensor) -> Tensor:
        normed = self.ln_1(states_bld)
        attended = self.attn(normed, normed, normed, attn_mask=mask_ll, need_weights=False)[0]
        states_bld = states_bld + attended
        hidden = self.mlp["c_fc"](self.ln_2(states_bld))
        active = hidden * torch.sigmoid(1.702 * hidden) if self.quick_gelu else F.gelu(hidden)
        fed: Tensor = states_bld + self.mlp["c_proj"](active)
        return fed


class ClipText(nn.Module):
    """CLIP's text tower: causal, read at the end mark.

    Args:
        state: Its weights, which give the sizes.
        quick_gelu: Whether it was trained with OpenAI's approximation of GELU.
    """

    def __init__(self, state: Mapping[str, Tensor], quick_gelu: bool) -> None:
        super().__init__()
        words, width = state["token_embedding.weight"].shape
        depth = 1 + max(int(key.split(".")[1]) for key in state if key.startswith("blocks."))
        self.token_embedding = nn.Embedding(words, width)
        self.positional_embedding = nn.Parameter(torch.zeros_like(state["positional_embedding"]))
        self.blocks = nn.ModuleList(_Block(width, quick_gelu) for _ in range(depth))
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.zeros_like(state["text_projection"]))

    @property
    def longest(self) -> int:
        """Longest text in tokens."""
        return len(self.positional_embedding)

    def forward(self, ids_bl: Tensor, ends_b: Tensor) -> Tensor:
        """Return (B, E), not normalised.

        Args:
            ids_bl: int64; what stands after the end mark is not read.
            ends_b: Place of each text's end mark.
        """
        length = ids_bl.shape[1]
        mask_ll = torch.ones(length, length, dtype=torch.bool, device=ids_bl.device).triu(1)
        states_bld = self.token_embedding(ids_bl) + self.positional_embedding[:length]
        for block in self.blocks:
            states_bld = block(states_bld, mask_ll)
        last_bd = self.ln_final(states_bld[torch.arange(len(ids_bl), device=ids_bl.device), ends_b])
        projected: Tensor = last_bd @ self.text_projection
        return projected


class ClipTexts(nn.Module):
    """From texts to vectors: tower and vocabulary.

    Args:
        tower: The tower.
        vocabulary: The folder of the vocabulary, which is read with the first text.
    """

    def __init__(self, tower: ClipText, vocabulary: Path) -> None:
        super().__init__()
        self.tower = tower
        self._folder = vocabulary
        self._tokenizer: tokenizers.Tokenizer | None = None

    def forward(self, texts: Sequence[str]) -> Tensor:
        """Return (B, E), L2-normalised. Texts longer than the tower reads are cut.

        Raises:
            CheckpointError: There is no vocabulary beside the weights, or it does not fit the tower.
        """
        tokenizer = self._tokenizer or clip_tokenizer(self._folder)
        words = len(self.tower.token_embedding.weight)
        if tokenizer.get_vocab_size() != words:
            raise CheckpointError(
                f"the vocabulary beside the weights has {tokenizer.get_vocab_size()} entries and the text "
                f"tower {words}: put the vocabulary that the weights were made with into {self._folder}"
            )
        self._tokenizer = tokenizer
        start, end = (int(tokenizer.token_to_id(mark) or 0) for mark in (START, END))
        room = self.tower.longest - 2
        ids = [[start, *encoding.ids[:room], end] for encoding in tokenizer.encode_batch(list(texts))]
        ends_b = torch.tensor([len(text) - 1 for text in ids])
        ids_bl = torch.full((len(ids), int(ends_b.max()) + 1), end)
        for row, text in zip(ids_bl, ids, strict=True):
            row[: len(text)] = torch.tensor(text)
        device = self.tower.positional_embedding.device
        return F.normalize(self.tower(ids_bl.to(device), ends_b.to(device)), dim=-1)


def read_clip_text(
    state: Mapping[str, Tensor], source: str, quick_gelu: bool
) -> tuple[ClipText, Tensor] | None:
    """Return the text tower and the image side's projection (W, E); None if the file has no text tower.

    Raises:
        CheckpointError: Too much of it is missing or left over.
    """
    text, projection = clip_text_tower(state)
    if "token_embedding.weight" not in text or "text_projection" not in text or projection is None:
        return None
    tower = ClipText(text, quick_gelu)
    load_tensors(tower, text, source, advice=ADVICE)
    return tower, projection


def clip_tokenizer(folder: Path) -> tokenizers.Tokenizer:
    """Return CLIP's byte-pair vocabulary, from one of its three forms in a folder.

    The hub's tokenizer.json, or vocab.json with merges.txt; or OpenAI's bpe_simple_vocab_16e6.txt, compressed
    or not, which open_clip ships too.

    Raises:
        CheckpointError: There is none of them, or it is damaged.
    """
    try:
        if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
            vocabulary = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
            return _engine(vocabulary, _merges((folder / "merges.txt").read_text(encoding="utf-8")))
        if (folder / f"{VOCABULARY}.gz").is_file():
            return _of_merges(gzip.decompress((folder / f"{VOCABULARY}.gz").read_bytes()).decode())
        if (folder / VOCABULARY).is_file():
            return _of_merges((folder / VOCABULARY).read_text(encoding="utf-8"))
        if (folder / "tokenizer.json").is_file():
            model = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
            pairs = [tuple(pair.split(" ") if isinstance(pair, str) else pair) for pair in model["merges"]]
            return _engine(model["vocab"], pairs)
    # tokenizers raises plain Exception.
    except Exception as error:
        raise CheckpointError(
            f"the vocabulary in {folder} cannot be read ({error}): download it again"
        ) from error
    raise CheckpointError(
        f"texts need CLIP's vocabulary beside the weights, and {folder} has none: put {VOCABULARY}.gz (in "
        "OpenAI's CLIP and in open_clip) or the hub's vocab.json and merges.txt there"
    )


def _of_merges(text: str) -> tokenizers.Tokenizer:
    merges = _merges(text)[:_MERGES]
    # OpenAI's order: the bytes as signs, the same at a word's end, then what the merges make.
    signs = sorted(pre_tokenizers.ByteLevel.alphabet(), key=_byte_order)
    words = [*signs, *(f"{sign}</w>" for sign in signs), *("".join(pair) for pair in merges), START, END]
    return _engine({word: index for index, word in enumerate(words)}, merges)


def _byte_order(sign: str) -> tuple[bool, int]:
    """Bytes that print stand for themselves and come first; the others are shifted beyond 255."""
    return ord(sign) > 255, ord(sign)


def _merges(text: str) -> list[tuple[str, str]]:
    lines = [line.split() for line in text.splitlines() if not line.startswith(("#version", '"bpe_simple'))]
    return [(line[0], line[1]) for line in lines if len(line) == 2]


def _engine(vocabulary: Mapping[str, int], merges: Sequence[tuple[str, ...]]) -> tokenizers.Tokenizer:
    engine = tokenizers.Tokenizer(
        models.BPE(
            vocab=dict(vocabulary),
            merges=[(pair[0], pair[1]) for pair in merges],
            end_of_word_suffix="</w>",
            unk_token=END,
        )
    )
    engine.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    engine.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORD), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return engine
