"""RUN: the folder of one training run, and the rules for resuming it.

config.toml         all settings, written when the run starts
preprocess.json, tokenizer.json (none without texts)
metrics.jsonl       one object per logged step
best.safetensors    the best weights on the validation tiles: by recall, or by the loss of MAE and MoCo v3
model.safetensors   the last weights; written last of all
tensorboard/        the same metrics for TensorBoard, with `tensorboard`
state/data.json     checksums of the data set
state/training.pt   network, momentum encoders, queue, optimizer, step, SCIO's text versions
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

# Settings that a resumed run may change: they do not change the result. And the limits of loss spikes: the
# error that ends such a run advises to raise them.
_CHANGEABLE_KEYS = frozenset({"workers", "parallel", "tensorboard", "guard.spike", "guard.patience"})


@contextmanager
def writable_checkpoint(path: Path) -> Iterator[None]:
    """Turn an error of writing `path` into one that states what to do.

    Raises:
        CheckpointError: The disk is full; `path` is unchanged.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        # torch and safetensors raise errors of their own.
        reason = (
            error.strerror if isinstance(error, OSError) and error.strerror else str(error).splitlines()[0]
        )
        raise CheckpointError(
            f"cannot write {path} ({reason}); what was saved before is unchanged: free disk space, and "
            "continue with --resume"
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
        """Whether settings, tokenizer and preprocessing exist: config.toml is written last."""
        return self.config.is_file()

    def check_free(self, *, resume: bool) -> None:
        """Check that the folder is free, or that the run in it may resume.

        Raises:
            SettingsError: The folder is not free and `resume` is not given.
        """
        if resume or not self.path.exists():
            return
        # A start that failed because of its data or settings leaves these, and may be repeated.
        of_a_failed_start = {PREPROCESS, TOKENIZER}
        if not self.path.is_dir() or {path.name for path in self.path.iterdir()} - of_a_failed_start:
            raise SettingsError(f"{self.path} exists already: continue with --resume, or give another --out")

    def check(self, settings: PretrainSettings, data: Mapping[str, str]) -> None:
        """Check that a run with these settings and data checksums may start or resume here.

        Raises:
            SettingsError: The settings differ from the run's.
            CheckpointError: Files of the run are damaged, or the data set has changed.
        """
        if not self.is_set_up():
            return
        changed = _changed_keys(self.settings().model_dump(), settings.model_dump())
        if changed:
            raise SettingsError(
                f"{self.config} has other settings than this command ({', '.join(changed)}): "
                "resume with the settings of the run, or give another --out"
            )
        try:
            known = json.loads(self.data.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{self.data} is damaged ({error}): give another --out") from error
        if known != dict(data):
            changed = sorted(name for name in {*known, *data} if known.get(name) != data.get(name))
            raise CheckpointError(
                f"the data set has changed since {self.path} started ({', '.join(changed)}): "
                "restore it, or give another --out"
            )

    def set_up(self, settings: PretrainSettings, data: Mapping[str, str]) -> None:
        """Write checksums and settings; config.toml, written last, marks the run as started."""
        # Remove partial states of an interrupted run, which may be gigabytes.
        for partial_file in (*self.path.glob(".*.partial"), *self.data.parent.glob(".*.partial")):
            partial_file.unlink(missing_ok=True)
        write_json(self.data, dict(data))
        dump_settings(settings, self.config)

    def append_metrics(self, values: Mapping[str, Any]) -> None:
        """Add one line to metrics.jsonl."""
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(_json_line(values))

    def read_metrics(self) -> list[dict[str, Any]]:
        """Return the lines of metrics.jsonl, without truncated or damaged lines."""
        if not self.metrics.is_file():
            return []
        lines = []
        # The text after the last newline is empty, or a truncated line.
        for line in self.metrics.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]:
            with suppress(ValueError):
                lines.append(json.loads(line))
        return lines

    def drop_metrics_after(self, step: int) -> None:
        """Remove the lines of steps after the saved state: they will be written again.

        Without a saved state (step 0) all lines are removed.
        """
        kept = [line for line in self.read_metrics() if line["step"] <= step] if step else []
        write_bytes(self.metrics, "".join(map(_json_line, kept)).encode())

    def settings(self) -> PretrainSettings:
        """Return the settings in config.toml.

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
        if prefix + key in _CHANGEABLE_KEYS:
            continue
        if isinstance(old[key], Mapping):
            changed += _changed_keys(old[key], new[key], f"{prefix}{key}.")
        elif old[key] != new[key]:
            changed.append(f"{prefix}{key}: {old[key]} there, {new[key]} here")
    return changed
