"""A trained model as a user holds it: pictures and words in, vectors and probabilities out."""

from collections.abc import Sequence
from typing import NoReturn, TypeAlias, overload

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fusar_klip.errors import NotInThisVersionError
from fusar_klip.models.network import KlipNetwork
from fusar_klip.models.preprocess import ImageInput, Preprocess
from fusar_klip.models.tokenizer import Tokenizer

Text: TypeAlias = str | list[str] | tuple[str, ...]
"""One text: a string, or its segments ("Count: 3 ships", ...), which the tokenizer joins."""

# Enough to fill the cores of a workstation; 64 images at 224 px take 40 MB.
_BATCH = 64


class Klip:
    """Network, preprocessing and tokenizer together. `fusar_klip.load("RUN")` makes one.

    Args:
        network: The network; put into evaluation mode.
        preprocess: Turns images into its input.
        tokenizer: Turns texts into its input.
        device: Where it computes.
    """

    def __init__(
        self,
        network: KlipNetwork,
        preprocess: Preprocess,
        tokenizer: Tokenizer,
        device: str | torch.device = "cpu",
    ) -> None:
        self.network = network.to(device).eval()
        self.preprocess = preprocess
        self.tokenizer = tokenizer
        self.device = torch.device(device)

    @torch.inference_mode()
    def embed_image(self, images: Sequence[ImageInput]) -> npt.NDArray[np.float32]:
        """Return (N, E) float32, L2-normalised: each image's place among the texts.

        Raises:
            DatasetError: An image cannot be read, or is not 8-bit.
        """
        parts = [self.network.image_features(tokens) for tokens in self._image_tokens(images)]
        return _stack(parts, self.network.settings.embed_dim)

    @torch.inference_mode()
    def features(self, images: Sequence[ImageInput]) -> npt.NDArray[np.float32]:
        """Return (N, W) float32: the image tower's class token before the projection, for probes.

        Raises:
            DatasetError: An image cannot be read, or is not 8-bit.
        """
        parts = [tokens[:, 0] for tokens in self._image_tokens(images)]
        return _stack(parts, self.network.settings.image_width)

    @torch.inference_mode()
    def embed_text(self, texts: Sequence[Text]) -> npt.NDArray[np.float32]:
        """Return (N, E) float32, L2-normalised: each text's place among the images."""
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
        memory = self.network.look(self.network.image_tokens(self.preprocess(image)[None].to(self.device)))
        parts = []
        for start in range(0, len(texts), _BATCH):
            ids_bl, mask_bl = self._tokens(texts[start : start + _BATCH])
            logits_b2 = self.network.match_logits(ids_bl, mask_bl, memory.tiled(len(ids_bl)))
            parts.append(logits_b2.softmax(1)[:, 1:])
        return _stack(parts, 1)[:, 0]

    def caption(self, image: ImageInput) -> NoReturn:
        """Write a text about an image: not in this version."""
        raise NotInThisVersionError(
            "caption is not in this version: use match or embed_text to compare texts"
        )

    def ask(self, image: ImageInput, question: str) -> NoReturn:
        """Answer a question about an image: not in this version."""
        raise NotInThisVersionError("ask is not in this version: use match to compare possible answers")

    def _image_tokens(self, images: Sequence[ImageInput]) -> list[Tensor]:
        """Return the class token alone of each batch, (B, 1, W)."""
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
