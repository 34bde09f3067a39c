"""Texts that the decoder generates for an image: the eight fields, a caption, or an answer.

A pretrained model fills the fields of its texts (eq. 13), one after the other. A model that was fine-tuned on
captions or on questions records it in `RUN/speaks.json`, and gets the prompt of its fine-tuning.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Self

from fusar_klip.catalog import FIELDS
from fusar_klip.errors import CheckpointError
from fusar_klip.files import write_json
from fusar_klip.models.network.cross_attention import CrossAttentionCache
from fusar_klip.models.network.klip_network import KlipNetwork
from fusar_klip.models.tokenizer import Tokenizer

# Both schemata of figure 8; `Klip.caption` takes the one that matches the image better.
_SCHEMATA = tuple(dict.fromkeys(FIELDS.values()))


@dataclass(frozen=True)
class GenerationConfig:
    """What a model was fine-tuned to generate, as `speaks.json` stores it.

    Attributes:
        of: Captions, or answers to questions.
        tokens: Longest text in tokens.
        beams: Width of the beam search.
    """

    of: Literal["captions", "questions"]
    tokens: int
    beams: int

    def save(self, path: Path) -> None:
        """Write `speaks.json`, atomically."""
        write_json(path, asdict(self))

    @classmethod
    def from_file(cls, path: Path) -> Self | None:
        """Read `speaks.json`; None if there is no such file.

        Raises:
            CheckpointError: The file holds something else.
        """
        if not path.is_file():
            return None
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise CheckpointError(f"{path} is no speaks.json of a run: give a whole RUN folder") from error


def caption_prompt(tokenizer: Tokenizer) -> list[int]:
    """Return `[CLS] [MASK] [SEP]`."""
    return tokenizer.join([[tokenizer.mask_id]])


def question_prompt(tokenizer: Tokenizer, question: str, tokens: int) -> list[int]:
    """Return `[CLS] question [SEP] [MASK] [SEP]`, at most `tokens` long."""
    (asked,) = tokenizer.segments([question], tokens - 2)
    return tokenizer.join([asked, [tokenizer.mask_id]])


def generate_text(
    network: KlipNetwork,
    tokenizer: Tokenizer,
    image_kv: CrossAttentionCache,
    prompt: Sequence[int],
    generation: GenerationConfig,
) -> str:
    """Return the text that the decoder generates at the prompt's [MASK], lower case.

    Args:
        network: The network.
        tokenizer: Its tokenizer.
        image_kv: One image.
        prompt: Token ids.
        generation: Length and number of beams.
    """
    device = network.log_temperature.device
    ids_bl, mask_bl = (tensor.to(device) for tensor in tokenizer.pad([prompt]))
    (ids,) = network.generate(
        ids_bl, mask_bl, image_kv, max_tokens=generation.tokens - 1, beams=generation.beams
    )
    return _text(tokenizer, ids)


def generate_fields(
    network: KlipNetwork, tokenizer: Tokenizer, image_kv: CrossAttentionCache, beams: int
) -> Iterator[list[str]]:
    """Yield the segments, "Field: text", that the decoder generates for each schema of a text.

    Each field has the fields before it as context: in training most of a text is visible. A field that does
    not fit into the model's longest text, or gets no word, is skipped.
    """
    longest = network.settings.max_tokens
    for fields in _SCHEMATA:
        segments: list[str] = []
        for field in fields:
            names = tokenizer.segments([*segments, f"{field}:"], longest - 1)
            names[-1] = [*names[-1], tokenizer.mask_id]
            prompt = tokenizer.join(names)
            room = GenerationConfig("captions", longest // len(fields) + 1, beams)
            if len(prompt) <= longest and (text := generate_text(network, tokenizer, image_kv, prompt, room)):
                segments.append(f"{field}: {text}")
        yield segments


def _text(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    return tokenizer.decode([token for token in ids if token != tokenizer.sep_id]).strip(" .")
