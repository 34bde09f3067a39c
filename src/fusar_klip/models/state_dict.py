"""A module filled with another project's tensors; what is missing, unused or left out is told."""

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn

from fusar_klip.errors import CheckpointError

_log = logging.getLogger(__name__)

LIMIT = 0.1
"""More than this share of a module's weights missing, or this much too many, is an error."""

_SHOWN = 8


def fill(
    module: nn.Module,
    state: Mapping[str, Tensor],
    source: str,
    *,
    mend: str,
    others: Sequence[str] = (),
    optional: Callable[[str], bool] = lambda name: False,
) -> None:
    """Fill a module in place.

    Args:
        module: Its parameters are filled.
        state: Tensors under the module's names.
        source: How messages call the file.
        mend: What to do about weights of another model, in the imperative.
        others: Names of the file's other parts, which are told of in the log.
        optional: Whether the weights need not have the parameter of a name.

    Raises:
        CheckpointError: A shape differs, or more than `LIMIT` is missing or left over.
    """
    own = dict(module.named_parameters())
    expected = {name for name in own if not optional(name)}
    if wrong := [name for name in sorted(own.keys() & state.keys()) if own[name].shape != state[name].shape]:
        shapes = f"{tuple(state[wrong[0]].shape)} instead of {tuple(own[wrong[0]].shape)}"
        raise CheckpointError(f"{source} does not fit: {wrong[0]} is {shapes}; {mend}")
    missing, unused = sorted(expected - state.keys()), sorted(state.keys() - own.keys())
    whole = sum(own[name].numel() for name in expected)
    for share, what, names in (
        (sum(own[name].numel() for name in missing) / whole, "lacks {} of the weights", missing),
        (sum(state[name].numel() for name in unused) / whole, "has {} weights too many", unused),
    ):
        if share > LIMIT:
            raise CheckpointError(f"{source} {what.format(f'{share:.0%}')} ({_some(names)}): {mend}")
    if missing or unused:
        _log.warning("%s: missing %s; unused %s", source, _some(missing), _some(unused))
    if others:
        parts = Counter(name.split(".")[0] for name in others)
        _log.info("%s: left out %s", source, ", ".join(f"{part} ({n})" for part, n in sorted(parts.items())))
    module.load_state_dict(dict(state), strict=False)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more if names else "none"
