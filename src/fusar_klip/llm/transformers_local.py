"""A vision-language model on this machine, through transformers (`image-text-to-text`).

It answers one request at a time: enough to try a model, or to describe some thousand tiles on one GPU. For
more, serve
the model with vLLM and give its `--base-url`. This module alone imports torch and transformers.
"""

import asyncio
import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from fusar_klip.errors import ProviderError, SettingsError
from fusar_klip.llm.provider import MAX_ANSWER_CHARS, Completion, Request
from fusar_klip.llm.settings import LlmSettings

_HEAD_BYTES = 1 << 20


class TransformersLocal:
    """Generates greedily, or samples at `temperature` if it is set."""

    def __init__(self, settings: LlmSettings) -> None:
        """Load the model; nothing is downloaded.

        Raises:
            SettingsError: No model is named.
            ProviderError: The model is not on this machine, or is no image-text-to-text model.
        """
        if not settings.model:
            raise SettingsError("the provider transformers needs a model: give --model FOLDER")
        folder = Path(settings.model)
        self.name = f"transformers/{folder.name if folder.is_dir() else settings.model}"
        try:
            open_processor: Any = AutoProcessor.from_pretrained
            self._processor = open_processor(settings.model, local_files_only=True)
            model: Any = AutoModelForImageTextToText.from_pretrained(
                settings.model, local_files_only=True, dtype="auto"
            )
            self._model = model.to(settings.device).eval()
        except (OSError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ProviderError(
                f"{settings.model} cannot be loaded ({reason}): give the folder of an image-text-to-text "
                "model"
            ) from error
        self.max_output_tokens = settings.max_output_tokens
        self._temperature = settings.temperature
        self.parameters: Mapping[str, Any] = {
            "weights": _digest(folder) if folder.is_dir() else self._model.config._commit_hash,
            "temperature": settings.temperature,
            "max_output_tokens": settings.max_output_tokens,
        }
        self._alone = asyncio.Lock()

    async def complete(self, request: Request, png: bytes | None) -> Completion:
        """Answer one request; see `Provider.complete`."""
        async with self._alone:
            return await asyncio.to_thread(self._generate, request, png)

    async def close(self) -> None:
        """Release the weights."""
        del self._model

    def _generate(self, request: Request, png: bytes | None) -> Completion:
        inputs = self._processor.apply_chat_template(
            _messages(request, png),
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        ).to(self._model.device, dtype=self._model.dtype)
        prompt_length = inputs["input_ids"].shape[1]
        sampling = (
            {"do_sample": True, "temperature": self._temperature}
            if self._temperature
            else {"do_sample": False}
        )
        with torch.inference_mode():
            tokens = self._model.generate(**inputs, max_new_tokens=self.max_output_tokens, **sampling)[
                0, prompt_length:
            ]
        text = self._processor.decode(tokens, skip_special_tokens=True)
        return Completion(text[:MAX_ANSWER_CHARS], prompt_length, len(tokens))


def _messages(request: Request, png: bytes | None) -> list[dict[str, Any]]:
    """Return a request as the chat templates of vision-language models take it; the image comes first."""
    turns = [("system", request.system), *request.history, ("user", request.user)]
    messages = [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in turns]
    if png is not None:
        first = next(message["content"] for message in messages if message["role"] == "user")
        image = Image.open(io.BytesIO(png)).convert("RGB")
        assert isinstance(first, list)
        first.insert(0, {"type": "image", "image": image})
    return messages


def _digest(folder: Path) -> str:
    """Return a digest that identifies weights, of the names, sizes and first bytes of all files."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.is_file()):
        digest.update(f"{path.name} {path.stat().st_size} ".encode())
        with path.open("rb") as file:
            digest.update(file.read(_HEAD_BYTES))
    return digest.hexdigest()
