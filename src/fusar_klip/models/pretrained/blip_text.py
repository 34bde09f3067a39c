"""BLIP's text tower (transformers' BlipTextModel), for retrieval by ITC and re-ranking by ITM."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn
from transformers.models.blip.configuration_blip import BlipTextConfig
from transformers.models.blip.modeling_blip_text import BlipTextModel

from fusar_klip.errors import CheckpointError
from fusar_klip.models.pretrained.key_layouts import blip_text_tower
from fusar_klip.models.pretrained.state_dict import load_tensors
from fusar_klip.models.pretrained.towers import ADVICE

# B texts, L tokens, N image tokens, W image width, E shared length

# BLIP appends [DEC] and [ENC] to BERT's vocabulary; [ENC] is the first token in cross-attention.
_ADDED = 2
_LONGEST = 512


class BlipTexts(nn.Module):
    """From texts to vectors or matching probabilities.

    Args:
        tower: BLIP's text encoder.
        projection: `text_proj`, text width to E.
        matching: `itm_head`, text width to 2; None if the file has none.
        vocabulary: The folder of BERT's vocab.txt, which is read with the first text.
    """

    def __init__(
        self, tower: BlipTextModel, projection: nn.Linear, matching: nn.Linear | None, vocabulary: Path
    ) -> None:
        super().__init__()
        self.tower, self.projection, self.matching = tower, projection, matching
        self._folder = vocabulary
        self._tokenizer: Tokenizer | None = None

    def forward(self, texts: Sequence[str]) -> Tensor:
        """Return (B, E), L2-normalised.

        Raises:
            CheckpointError: There is no vocabulary beside the weights, or it does not fit the tower.
        """
        ids_bl, mask_bl = self._tokens(texts)
        states = self.tower(input_ids=ids_bl, attention_mask=mask_bl, is_decoder=False).last_hidden_state
        return F.normalize(self.projection(states[:, 0]), dim=-1)

    def match(self, texts: Sequence[str], tokens_1nw: Tensor) -> Tensor:
        """Return the probability that each text belongs to one image, (B,)."""
        assert self.matching is not None
        ids_bl, mask_bl = self._tokens(texts)
        ids_bl[:, 0] = self.tower.config.vocab_size - 1
        states = self.tower(
            input_ids=ids_bl,
            attention_mask=mask_bl,
            encoder_hidden_states=tokens_1nw.expand(len(texts), -1, -1),
            is_decoder=False,
        ).last_hidden_state
        matched: Tensor = self.matching(states[:, 0]).softmax(1)[:, 1]
        return matched

    def _tokens(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        if self._tokenizer is None:
            self._tokenizer = self._read_vocabulary()
        encodings = self._tokenizer.encode_batch(list(texts))
        device = self.projection.weight.device
        ids = torch.tensor([encoding.ids for encoding in encodings], device=device)
        return ids, torch.tensor([encoding.attention_mask for encoding in encodings], device=device)

    def _read_vocabulary(self) -> Tokenizer:
        file = self._folder / "vocab.txt"
        if not file.is_file():
            raise CheckpointError(
                f"texts need BERT's vocabulary beside the weights, and there is no {file}: put "
                "bert-base-uncased's vocab.txt there"
            )
        vocabulary = {word: place for place, word in enumerate(file.read_text(encoding="utf-8").split("\n"))}
        vocabulary.pop("", None)
        tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        marks = [(mark, vocabulary.get(mark, 0)) for mark in ("[SEP]", "[CLS]")]
        tokenizer.post_processor = processors.BertProcessing(*marks)
        words = self.tower.config.vocab_size
        if tokenizer.get_vocab_size() + _ADDED != words:
            raise CheckpointError(
                f"{file} has {tokenizer.get_vocab_size()} words, and the text tower was made for "
                f"{words - _ADDED}: put the vocabulary that the weights were made with there"
            )
        tokenizer.enable_truncation(min(_LONGEST, self.tower.config.max_position_embeddings))
        tokenizer.enable_padding()
        return tokenizer


def read_blip_text(
    state: Mapping[str, Tensor], source: str, vocabulary: Path
) -> tuple[BlipTexts, Tensor] | None:
    """Return the text side and the image side's projection (W, E); None if the file has no text tower.

    Raises:
        CheckpointError: Too much of it is missing or left over.
    """
    text = blip_text_tower(state)
    if not text or "text_proj.weight" not in state or "vision_proj.weight" not in state:
        return None
    words, width = text["embeddings.word_embeddings.weight"].shape
    depth = 1 + max(int(key.split(".")[2]) for key in text if key.startswith("encoder.layer."))
    config = BlipTextConfig(
        vocab_size=words,
        hidden_size=width,
        encoder_hidden_size=state["vision_proj.weight"].shape[1],
        intermediate_size=text["encoder.layer.0.intermediate.dense.weight"].shape[0],
        num_hidden_layers=depth,
        num_attention_heads=max(1, width // 64),
        max_position_embeddings=text["embeddings.position_embeddings.weight"].shape[0],
        hidden_act="gelu",
        attention_probs_dropout_prob=0.0,
        layer_norm_eps=1e-12,
    )
    tower = BlipTextModel(config, add_pooling_layer=False)
    load_tensors(tower, text, source, advice=ADVICE)
    matching = _linear(state, "itm_head") if "itm_head.weight" in state else None
    texts = BlipTexts(tower, _linear(state, "text_proj"), matching, vocabulary)
    # The image side's bias is a row more.
    projection = torch.cat([state["vision_proj.weight"].T, state["vision_proj.bias"][None]])
    return texts, projection


def _linear(state: Mapping[str, Tensor], name: str) -> nn.Linear:
    weight = state[f"{name}.weight"]
    linear = nn.Linear(weight.shape[1], weight.shape[0])
    linear.load_state_dict({"weight": weight, "bias": state[f"{name}.bias"]})
    return linear
