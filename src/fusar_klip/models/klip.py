"""`Klip`: a trained model with its preprocessing and tokenizer, from images and texts to results."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias, overload

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fusar_klip.errors import CheckpointError
from fusar_klip.models.captioning import (
    GenerationConfig,
    caption_prompt,
    generate_fields,
    generate_text,
    question_prompt,
)
from fusar_klip.models.network.cross_attention import CrossAttentionCache
from fusar_klip.models.network.klip_network import KlipNetwork
from fusar_klip.models.network.towers import ImageTower
from fusar_klip.models.preprocess import ImageInput, Preprocess
from fusar_klip.models.tokenizer import Tokenizer

Text: TypeAlias = str | list[str] | tuple[str, ...]
"""One text: a string, or its segments ("Count: 3 ships", ...), which the tokenizer joins."""

# Enough to fill the cores of a workstation; 64 images at 224 px take 40 MB.
_BATCH = 64


class Klip:
    """Network, preprocessing and tokenizer. `fusar_klip.load("RUN")` returns one.

    Args:
        network: The network; put into evaluation mode.
        preprocess: Turns images into its input.
        tokenizer: Turns texts into its input.
        device: Where it computes.
        generation: What it was fine-tuned to generate; None for a pretrained model.
    """

    def __init__(
        self,
        network: KlipNetwork,
        preprocess: Preprocess,
        tokenizer: Tokenizer,
        device: str | torch.device = "cpu",
        generation: GenerationConfig | None = None,
    ) -> None:
        self.network = network.to(device).eval()
        self.preprocess = preprocess
        self.tokenizer = tokenizer
        self.device = torch.device(device)
        self.generation = generation

    @property
    def title(self) -> str:
        """How messages call the model."""
        return "the model"

    @property
    def image_tower(self) -> ImageTower:
        """The image tower; its input is (B, 1, S, S)."""
        return self.network.image_tower

    @property
    def can_match(self) -> bool:
        """True: `match` always works."""
        return True

    @torch.inference_mode()
    def embed_image(self, images: str | Path | Sequence[ImageInput]) -> npt.NDArray[np.float32]:
        """Return (N, E) float32, L2-normalised: image embeddings; a path is one image.

        Raises:
            DatasetError: An image cannot be read.
        """
        parts = [self.network.image_features(tokens) for tokens in self._image_tokens(images)]
        return _stack(parts, self.network.settings.embed_dim)

    @torch.inference_mode()
    def features(self, images: str | Path | Sequence[ImageInput]) -> npt.NDArray[np.float32]:
        """Return (N, W) float32: the image tower's class token before the projection, for probes.

        Raises:
            DatasetError: An image cannot be read.
        """
        parts = [tokens[:, 0] for tokens in self._image_tokens(images)]
        return _stack(parts, self.network.settings.image_width)

    @torch.inference_mode()
    def embed_text(self, texts: str | Sequence[Text]) -> npt.NDArray[np.float32]:
        """Return (N, E) float32, L2-normalised: text embeddings; a string is one text."""
        if isinstance(texts, str):
            texts = [texts]
        parts = [
            self.network.text_features(*self._tokens(texts[start : start + _BATCH]))
            for start in range(0, len(texts), _BATCH)
        ]
        return _stack(parts, self.network.settings.embed_dim)

    # A string is itself a sequence of strings: the first signature is meant for it.
    @overload
    def match(self, image: ImageInput, texts: str) -> float: ...  # type: ignore[overload-overlap]
    @overload
    def match(self, image: ImageInput, texts: Sequence[Text]) -> npt.NDArray[np.float32]: ...

    @torch.inference_mode()
    def match(self, image: ImageInput, texts: str | Sequence[Text]) -> float | npt.NDArray[np.float32]:
        """Return the probability that image and text belong together (p of eq. 5), in 0 to 1.

        One string gives a float; N texts give (N,) float32.
        """
        if isinstance(texts, str):
            return float(self.match(image, [texts])[0])
        image_kv = self._image_kv(image)
        parts = []
        for start in range(0, len(texts), _BATCH):
            ids_bl, mask_bl = self._tokens(texts[start : start + _BATCH])
            logits_b2 = self.network.match_logits(ids_bl, mask_bl, image_kv.tiled(len(ids_bl)))
            parts.append(logits_b2.softmax(1)[:, 1:])
        return _stack(parts, 1)[:, 0]

    @torch.inference_mode()
    def caption(self, image: ImageInput, *, beams: int = 3) -> str:
        """Return the text that the decoder generates for an image, lower case.

        A model that was fine-tuned on captions returns a caption. Any other returns the eight fields of a
        text, a line each ("Count: ..."), in the one of the two schemata that matches the image better.

        Args:
            image: The image.
            beams: Width of the beam search for the fields.

        Raises:
            CheckpointError: The model was fine-tuned on questions.
            DatasetError: The image cannot be read.
        """
        if self.generation is not None and self.generation.of != "captions":
            raise CheckpointError(
                "this model was fine-tuned on questions: use ask, or give another RUN for captions"
            )
        image_kv = self._image_kv(image)
        if self.generation is not None:
            return generate_text(
                self.network, self.tokenizer, image_kv, caption_prompt(self.tokenizer), self.generation
            )
        texts = [text for text in generate_fields(self.network, self.tokenizer, image_kv, beams) if text]
        if not texts:
            return ""
        return "\n".join(texts[int(self.match(image, texts).argmax())])

    @torch.inference_mode()
    def ask(self, image: ImageInput, question: str) -> str:
        """Return the decoder's answer to a question about an image, lower case.

        Raises:
            CheckpointError: The model was not fine-tuned on questions.
            DatasetError: The image cannot be read.
        """
        if self.generation is None or self.generation.of != "questions":
            raise CheckpointError(
                "this model was not fine-tuned on questions: run a vqa row of fusar-klip benchmark with "
                "save = true, and give the RUN that it writes"
            )
        prompt = question_prompt(self.tokenizer, question, self.generation.tokens)
        return generate_text(self.network, self.tokenizer, self._image_kv(image), prompt, self.generation)

    def _image_kv(self, image: ImageInput) -> CrossAttentionCache:
        return self.network.image_kv(self.network.image_tokens(self.preprocess(image)[None].to(self.device)))

    def _image_tokens(self, images: str | Path | Sequence[ImageInput]) -> list[Tensor]:
        """Return the class token alone of each batch, (B, 1, W)."""
        if isinstance(images, (str, Path)):
            images = [images]
        return [
            self.network.image_tower.class_tokens(
                self.preprocess.batch(images[start : start + _BATCH]).to(self.device)
            )[:, None]
            for start in range(0, len(images), _BATCH)
        ]

    def _tokens(self, texts: Sequence[Text]) -> tuple[Tensor, Tensor]:
        longest = self.network.settings.max_tokens
        ids_bl, mask_bl = self.tokenizer.pad([self.tokenizer.encode(text, longest) for text in texts])
        return ids_bl.to(self.device), mask_bl.to(self.device)


def _stack(parts: Sequence[Tensor], width: int) -> npt.NDArray[np.float32]:
    if not parts:
        return np.zeros((0, width), np.float32)
    array: npt.NDArray[np.float32] = torch.cat(list(parts)).float().cpu().numpy()
    return array
