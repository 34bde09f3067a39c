"""RUN: the folder of one training run, and the rules of going on in it.

config.toml         all settings, written when the run is set up
preprocess.json, tokenizer.json (none without texts)
metrics.jsonl       one object per logged step
best.safetensors    the weights that were best in validation: in retrieval, or by the loss of a baseline
model.safetensors   the last weights; written last of all
tensorboard/        the same metrics for TensorBoard, with `tensorboard`
state/data.json     checksums of the data set
state/training.pt   network, momentum towers, queue, optimiser, step, SCIO's text versions
"""

import json
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from fusar_klip.config import dump_settings, validate_settings
from fusar_klip.errors import CheckpointError, SettingsError
from fusar_klip.files import finite_or_null, write_bytes, write_json
from fusar_klip.models.checkpoint import PREPROCESS, TOKENIZER, WEIGHTS
from fusar_klip.pretrain.settings import PretrainSettings

# How the work is done, and not what comes out: a run may go on with others. And what the guard bears: it ends
# a run with the advice to go on with more.
_FREE_KEYS = frozenset({"workers", "parallel", "tensorboard", "guard.spike", "guard.patience"})


@contextmanager
def writable_checkpoint(path: Path) -> Iterator[None]:
    """Name the mend where `path`, which is written atomically within, cannot be written.

    Raises:
        CheckpointError: The disk is full; `path` is as it was.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        # torch and safetensors write with their own code, and raise their own errors.
        reason = (
            error.strerror if isinstance(error, OSError) and error.strerror else str(error).splitlines()[0]
        )
        raise CheckpointError(
            f"cannot write {path} ({reason}), and what was saved before is as it was: make room, and go on "
            "with --resume"
        ) from error


@dataclass(frozen=True)
class RunFolder:
    """The paths of a run."""

    path: Path

    @property
    def config(self) -> Path:
        """RUN/config.toml."""
        return self.path / "config.toml"

    @property
    def preprocess(self) -> Path:
        """RUN/preprocess.json."""
        return self.path / PREPROCESS

    @property
    def tokenizer(self) -> Path:
        """RUN/tokenizer.json."""
        return self.path / TOKENIZER

    @property
    def metrics(self) -> Path:
        """RUN/metrics.jsonl."""
        return self.path / "metrics.jsonl"

    @property
    def best(self) -> Path:
        """RUN/best.safetensors."""
        return self.path / "best.safetensors"

    @property
    def weights(self) -> Path:
        """RUN/model.safetensors."""
        return self.path / WEIGHTS

    @property
    def data(self) -> Path:
        """RUN/state/data.json."""
        return self.path / "state" / "data.json"

    @property
    def training(self) -> Path:
        """RUN/state/training.pt."""
        return self.path / "state" / "training.pt"

    def is_set_up(self) -> bool:
        """Whether settings, tokenizer and preprocessing are there: config.toml is the last of them."""
        return self.config.is_file()

    def check_free(self, *, resume: bool) -> None:
        """Make sure that nothing is here, or that it may be gone on with.

        Raises:
            SettingsError: Something is here and `resume` is not given.
        """
        if resume or not self.path.exists():
            return
        # A start that failed for its data or settings leaves these, and may be made again.
        of_a_start = {PREPROCESS, TOKENIZER}
        if not self.path.is_dir() or {path.name for path in self.path.iterdir()} - of_a_start:
            raise SettingsError(f"{self.path} is there already: go on with --resume, or give another --out")

    def check(self, settings: PretrainSettings, data: Mapping[str, str]) -> None:
        """Make sure that a run with these settings and data may begin here, or go on here.

        Raises:
            SettingsError: The settings are others than the run's.
            CheckpointError: The run's own files are damaged, or the data set has changed.
        """
        if not self.is_set_up():
            return
        changed = _changed_keys(self.settings().model_dump(), settings.model_dump())
        if changed:
            raise SettingsError(
                f"{self.config} has other settings than this command ({', '.join(changed)}): "
                "resume with the run's own, or give another --out"
            )
        try:
            known = json.loads(self.data.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{self.data} is damaged ({error}): give another --out") from error
        if known != dict(data):
            changed = sorted(name for name in {*known, *data} if known.get(name) != data.get(name))
            raise CheckpointError(
                f"the data set has changed since {self.path} began ({', '.join(changed)}): "
                "bring it back as it was, or give another --out"
            )

    def set_up(self, settings: PretrainSettings, data: Mapping[str, str]) -> None:
        """Write checksums and settings; config.toml, the last, says that the run is set up."""
        # Half a state is gigabytes, and what was killed while it wrote one cannot take it away.
        for half_written in (*self.path.glob(".*.partial"), *self.data.parent.glob(".*.partial")):
            half_written.unlink(missing_ok=True)
        write_json(self.data, dict(data))
        dump_settings(settings, self.config)

    def append_metrics(self, values: Mapping[str, Any]) -> None:
        """Add one line to metrics.jsonl."""
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(_json_line(values))

    def read_metrics(self) -> list[dict[str, Any]]:
        """Return the lines of metrics.jsonl; lines that a crash cut short or damaged are left out."""
        if not self.metrics.is_file():
            return []
        lines = []
        # What stands after the last newline is empty, or was cut short.
        for line in self.metrics.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]:
            with suppress(ValueError):
                lines.append(json.loads(line))
        return lines

    def forget_metrics_after(self, step: int) -> None:
        """Take out the lines of steps that the saved state does not know: they will be made again.

        Before the first state, 0, nothing is known: what is told of the start is told again.
        """
        kept = [line for line in self.read_metrics() if line["step"] <= step] if step else []
        write_bytes(self.metrics, "".join(map(_json_line, kept)).encode())

    def settings(self) -> PretrainSettings:
        """Return what config.toml holds.

        Raises:
            CheckpointError: It cannot be read.
        """
        try:
            return validate_settings(PretrainSettings, tomllib.loads(self.config.read_text(encoding="utf-8")))
        except (OSError, ValueError, SettingsError) as error:
            raise CheckpointError(f"{self.config} is damaged ({error}): give another --out") from error


def _json_line(values: Mapping[str, Any]) -> str:
    return json.dumps(finite_or_null(values), allow_nan=False) + "\n"


def _changed_keys(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    changed = []
    for key in old:
        if prefix + key in _FREE_KEYS:
            continue
        if isinstance(old[key], Mapping):
            changed += _changed_keys(old[key], new[key], f"{prefix}{key}.")
        elif old[key] != new[key]:
            changed.append(f"{prefix}{key}: {old[key]} there, {new[key]} here")
    return changed
