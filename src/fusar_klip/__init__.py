"""Natural-language search, captioning and question answering for SAR imagery (FUSAR-KLIP)."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fusar_klip.models import load as load

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def __getattr__(name: str) -> object:
    # PEP 562: `fusar_klip.load` imports torch, so it is resolved on first access only.
    if name == "load":
        from fusar_klip.models import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
