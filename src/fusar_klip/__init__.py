"""Synthetic aperture radar imagery, worked with in words (FUSAR-KLIP)."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fusar_klip.models import load as load

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def __getattr__(name: str) -> object:
    # PEP 562: `fusar_klip.load` brings torch in, so it is imported only when it is asked for.
    if name == "load":
        from fusar_klip.models import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
