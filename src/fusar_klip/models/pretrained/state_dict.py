"""Loads foreign tensors into a module, and reports which are missing, unused or skipped."""

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn

from fusar_klip.errors import CheckpointError

_log = logging.getLogger(__name__)

LIMIT = 0.1
"""Largest share of a module's weights that may be missing or left over; more is an error."""

_SHOWN = 8


def load_tensors(
    module: nn.Module,
    state: Mapping[str, Tensor],
    source: str,
    *,
    advice: str,
    skipped: Sequence[str] = (),
    optional: Callable[[str], bool] = lambda name: False,
) -> None:
    """Load tensors into a module, in place.

    Args:
        module: The module.
        state: Tensors under the module's names.
        source: How messages call the file.
        advice: What to do about weights of another model, in the imperative.
        skipped: Names of the file's other tensors, which are counted in the log.
        optional: Whether the weights may lack the parameter of a name.

    Raises:
        CheckpointError: A shape differs, or more than `LIMIT` is missing or left over.
    """
    own = dict(module.named_parameters())
    expected = {name for name in own if not optional(name)}
    if wrong := [name for name in sorted(own.keys() & state.keys()) if own[name].shape != state[name].shape]:
        shapes = f"{tuple(state[wrong[0]].shape)} instead of {tuple(own[wrong[0]].shape)}"
        raise CheckpointError(f"{source} does not fit: {wrong[0]} is {shapes}; {advice}")
    missing, unused = sorted(expected - state.keys()), sorted(state.keys() - own.keys())
    whole = sum(own[name].numel() for name in expected)
    for share, what, names in (
        (sum(own[name].numel() for name in missing) / whole, "lacks {} of the weights", missing),
        (sum(state[name].numel() for name in unused) / whole, "has {} weights too many", unused),
    ):
        if share > LIMIT:
            raise CheckpointError(f"{source} {what.format(f'{share:.0%}')} ({_some(names)}): {advice}")
    if missing or unused:
        _log.warning("%s: missing %s; unused %s", source, _some(missing), _some(unused))
    if skipped:
        parts = Counter(name.split(".")[0] for name in skipped)
        _log.info("%s: left out %s", source, ", ".join(f"{part} ({n})" for part, n in sorted(parts.items())))
    module.load_state_dict(dict(state), strict=False)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more if names else "none"
