"""A published model: a `VisionLanguageModel` made from other projects' weights."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from fusar_klip.errors import CheckpointError
from fusar_klip.files import sha256
from fusar_klip.models.klip import Text
from fusar_klip.models.preprocess import ImageInput, Preprocess
from fusar_klip.models.pretrained.blip_text import BlipTexts, read_blip_text
from fusar_klip.models.pretrained.clip_text import VOCABULARY, ClipTexts, read_clip_text
from fusar_klip.models.pretrained.registry import PRETRAINED, PretrainedSpec
from fusar_klip.models.pretrained.single_channel import single_channel_normalisation
from fusar_klip.models.pretrained.towers import build_tower
from fusar_klip.models.pretrained.weight_files import find_files, read_tensors

# B batch, S image size, N tokens, W image width, E shared length

_BATCH = 64
_FORMAT = 1
"""Raised whenever the same weights would give other features."""
_BESIDE = (
    "config.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "tokenizer.json",
    VOCABULARY,
    f"{VOCABULARY}.gz",
)


class PretrainedNetwork(nn.Module):
    """Image tower and, if there is one, text side.

    Args:
        image_tower: timm's ViT or a module with its methods; its input is (B, 1, S, S).
        texts: The text side, or None.
        projection: From the image's feature to E: (W, E), or (W + 1, E) with a bias; None without texts.
    """

    projection: Tensor | None

    def __init__(
        self, image_tower: nn.Module, texts: ClipTexts | BlipTexts | None, projection: Tensor | None
    ) -> None:
        super().__init__()
        self.image_tower = image_tower
        self.texts = texts
        self.register_buffer("projection", projection)

    def features(self, images_b1ss: Tensor) -> Tensor:
        """Return the pooled feature, (B, W)."""
        tower: Any = self.image_tower
        pooled_bw: Tensor = tower.forward_head(tower.forward_features(images_b1ss), pre_logits=True)
        return pooled_bw

    def image_features(self, features_bw: Tensor) -> Tensor:
        """Return (B, E), L2-normalised."""
        assert self.projection is not None
        if len(self.projection) > features_bw.shape[1]:
            features_bw = F.pad(features_bw, (0, 1), value=1.0)
        return F.normalize(features_bw @ self.projection, dim=-1)


class PretrainedEncoder:
    """A published model. `ModelRef.parse("remoteclip:FILE").load()` makes one.

    Args:
        model: Its entry of the registry.
        network: The network; put into evaluation mode.
        preprocess: Turns images into its input.
        source: How messages call it, such as `remoteclip:FILE`.
        device: Where it computes.
    """

    def __init__(
        self,
        model: PretrainedSpec,
        network: PretrainedNetwork,
        preprocess: Preprocess,
        source: str,
        device: str | torch.device = "cpu",
    ) -> None:
        self.model = model
        self.network = network.to(device).eval()
        self.preprocess = preprocess
        self.source = source
        self.device = torch.device(device)

    @property
    def title(self) -> str:
        """How messages call the model."""
        return f"{self.model.title} ({self.source})"

    @property
    def image_tower(self) -> nn.Module:
        """The image tower; its input is (B, 1, S, S)."""
        return self.network.image_tower

    @property
    def can_match(self) -> bool:
        """Whether it has a head for ITM (BLIP's retrieval files)."""
        texts = self.network.texts
        return isinstance(texts, BlipTexts) and texts.matching is not None

    @torch.inference_mode()
    def features(self, images: Sequence[ImageInput]) -> NDArray[np.float32]:
        """Return (N, W) float32: the pooled feature of the registry, before any projection.

        Raises:
            DatasetError: An image cannot be read.
        """
        return _array([self.network.features(batch) for batch in self._batches(images)])

    @torch.inference_mode()
    def embed_image(self, images: Sequence[ImageInput]) -> NDArray[np.float32]:
        """Return (N, E) float32, L2-normalised: image embeddings.

        Raises:
            CheckpointError: It has no text tower.
            DatasetError: An image cannot be read.
        """
        self._text_side()
        network = self.network
        return _array([network.image_features(network.features(batch)) for batch in self._batches(images)])

    @torch.inference_mode()
    def embed_text(self, texts: Sequence[Text]) -> NDArray[np.float32]:
        """Return (N, E) float32, L2-normalised. Segments are joined by spaces; long texts are cut.

        Raises:
            CheckpointError: It has no text tower, or no vocabulary lies beside the weights.
        """
        side = self._text_side()
        whole = [_joined(text) for text in texts]
        return _array([side(whole[start : start + _BATCH]) for start in range(0, len(whole), _BATCH)])

    @torch.inference_mode()
    def match(self, image: ImageInput, texts: Sequence[Text]) -> NDArray[np.float32]:
        """Return the probabilities that image and texts belong together, (N,) float32, in 0 to 1.

        Raises:
            CheckpointError: It has no head for matching.
        """
        side = self.network.texts
        if not isinstance(side, BlipTexts) or side.matching is None:
            raise CheckpointError(
                f"{self.source} has no head for matching: set shortlist = 0 in the suite's row"
            )
        tower: Any = self.network.image_tower
        tokens_1nw = tower.forward_features(self.preprocess(image)[None].to(self.device))
        whole = [_joined(text) for text in texts]
        return _array(
            [side.match(whole[start : start + _BATCH], tokens_1nw) for start in range(0, len(whole), _BATCH)]
        )

    def _text_side(self) -> ClipTexts | BlipTexts:
        if self.network.texts is None:
            raise CheckpointError(
                f"{self.source} has no text tower, so it cannot run retrieval: leave it out"
            )
        return self.network.texts

    def _batches(self, images: Sequence[ImageInput]) -> list[Tensor]:
        return [
            self.preprocess.batch(images[start : start + _BATCH]).to(self.device)
            for start in range(0, len(images), _BATCH)
        ]


def load_pretrained(name: str, source: str, device: str = "cpu") -> PretrainedEncoder:
    """Return a published model.

    Args:
        name: Its key in the registry.
        source: A file, a folder, or OWNER/NAME or OWNER/NAME/FILE of the hub.
        device: Where it computes.

    Raises:
        CheckpointError: There are no such weights, or they are of another model.
    """
    model, files = PRETRAINED[name], find_files(source)
    state = {key: value.float() for key, value in read_tensors(files).items()}
    quick_gelu = _quick_gelu_of_config(files[0].parent)
    tower, size = build_tower(model, state, source, quick_gelu=quick_gelu)
    texts, projection = _texts(model, state, files[0], source, quick_gelu)
    mean, std = single_channel_normalisation(*model.normalisation)
    network = PretrainedNetwork(tower, texts, projection)
    return PretrainedEncoder(model, network, Preprocess(size, mean, std), f"{name}:{source}", device)


def wrap_image_tower(
    tower: nn.Module, preprocess: Preprocess, objective: str | None, source: str, device: str = "cpu"
) -> PretrainedEncoder:
    """Return the image tower of one of our runs on images alone as a published model of its objective.

    Args:
        tower: The image tower.
        preprocess: Turns images into its input.
        objective: "mae" or "mocov3", as `image_objective` returns it.
        source: How messages call the run.
        device: Where it computes.
    """
    model = PRETRAINED["moco-v3" if objective == "mocov3" else str(objective)]
    return PretrainedEncoder(model, PretrainedNetwork(tower, None, None), preprocess, source, device)


def pretrained_digest(name: str, source: str) -> str:
    """Return 64 hexadecimal digits that change when the model that `load_pretrained` gives may have changed.

    Raises:
        CheckpointError: There are no such weights.
    """
    files = find_files(source)
    beside = [files[0].parent / file for file in _BESIDE]
    contents = [sha256(file) for file in (*files, *beside) if file.is_file()]
    return hashlib.sha256(json.dumps([_FORMAT, name, contents]).encode()).hexdigest()


def _texts(
    model: PretrainedSpec, state: Mapping[str, Tensor], file: Path, source: str, quick_gelu: bool | None
) -> tuple[ClipTexts | BlipTexts | None, Tensor | None]:
    if model.texts == "clip":
        if quick_gelu is None:
            width = state["visual.class_embedding"].shape[0] if "visual.class_embedding" in state else 0
            quick_gelu = model.quick_gelu and width not in model.gelu_widths
        found = read_clip_text(state, source, quick_gelu)
        if found is not None:
            return ClipTexts(found[0], file.parent), found[1]
    if model.texts == "blip":
        blip = read_blip_text(state, source, file.parent)
        if blip is not None:
            return blip
    return None, None


def _quick_gelu_of_config(folder: Path) -> bool | None:
    """Return whether a folder's config.json (transformers' CLIP) states QuickGELU; None without a config."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        # A language model's configuration describes its own layers.
        if config.get("model_type") not in ("clip", "clip_vision_model"):
            return None
        activation = (config.get("vision_config") or config).get("hidden_act")
    except (OSError, ValueError, AttributeError):
        return None
    return None if activation is None else activation == "quick_gelu"


def _joined(text: Text) -> str:
    return text if isinstance(text, str) else " ".join(text)


def _array(parts: Sequence[Tensor]) -> NDArray[np.float32]:
    array: NDArray[np.float32] = torch.cat(list(parts)).float().cpu().numpy()
    return array
