"""Reads TOML files and `--set KEY=VALUE` overrides into typed, validated settings.

The settings classes are defined beside the code that they configure (`tiles/settings.py`,
`pretrain/settings.py`, ...). This module reads, merges, validates and writes them.
"""

import difflib
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tomli_w
from pydantic import BaseModel, ConfigDict, ValidationError

from fusar_klip.errors import SettingsError
from fusar_klip.files import write_bytes


class Settings(BaseModel):
    """Base of all settings: frozen, no unknown keys, each field documented by the string under it."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


SettingsT = TypeVar("SettingsT", bound=Settings)


def load_settings(
    kind: type[SettingsT], file: Path | None = None, overrides: Sequence[str] = ()
) -> SettingsT:
    """Read `file` (TOML) over the defaults of `kind`, then `overrides` ("section.key=value") over both.

    An override's value is parsed as TOML (`3`, `0.5`, `true`, `[1, 2]`, `"text"`). If that fails, it is a
    plain string, so `--set scene.band=VV` needs no quotes.

    Raises:
        SettingsError: The file is missing or not valid TOML, a key is unknown (the message suggests the
            nearest known key), or a value has the wrong type or is out of range.
    """
    values: dict[str, Any] = {}
    if file is not None:
        try:
            values = tomllib.loads(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise SettingsError(f"cannot read the configuration {file}: {error.strerror}") from error
        except ValueError as error:
            raise SettingsError(f"{file} is not valid TOML: {error}") from error
    for override in overrides:
        _assign(values, override)
    return validate_settings(kind, values)


def validate_settings(kind: type[SettingsT], values: Mapping[str, Any]) -> SettingsT:
    """Build `kind` from nested `values`; raise one `SettingsError` that lists all wrong keys."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        known = list(_keys(kind))
        complaints = [_complaint(detail, known) for detail in error.errors()]
        raise SettingsError("; ".join(complaints)) from error


def dump_settings(settings: Settings, path: Path) -> None:
    """Write `settings` as TOML, atomically; keys that are None are omitted, because TOML has no null."""
    write_bytes(path, tomli_w.dumps(settings.model_dump(mode="json", exclude_none=True)).encode())


def _assign(values: dict[str, Any], override: str) -> None:
    key, sign, text = override.partition("=")
    if not sign or not key.strip():
        raise SettingsError(f'--set takes KEY=VALUE, such as --set scene.band=VV, not "{override}"')
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *sections, name = key.strip().split(".")
    for section in sections:
        inner = values.setdefault(section, {})
        if not isinstance(inner, dict):
            raise SettingsError(f'--set {override}: "{section}" is a value, not a section')
        values = inner
    values[name] = value


def _keys(kind: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in kind.model_fields.items():
        yield prefix + name
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _keys(field.annotation, f"{prefix}{name}.")


def _complaint(detail: Mapping[str, Any], known: Sequence[str]) -> str:
    key = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "value_error":  # raised by one of our own validators, with a complete message
        message = str(detail["ctx"]["error"])
        return f"{key}: {message}" if key else message
    if detail["type"] != "extra_forbidden":
        return f"{key}: {detail['msg'][:1].lower()}{detail['msg'][1:]} (given: {detail['input']!r})"
    # Also compare the last part of the key, so that "band" suggests "scene.band".
    by_name = {name.rsplit(".", 1)[-1]: name for name in reversed(known)}
    section = key.rpartition(".")[0]
    near = difflib.get_close_matches(key, [n for n in known if n != section], n=1, cutoff=0.5)
    near = near or [by_name[n] for n in difflib.get_close_matches(key.rsplit(".", 1)[-1], by_name, n=1)]
    hint = f'did you mean "{near[0]}"?' if near else f"known keys: {', '.join(known)}"
    return f'unknown key "{key}"; {hint}'
