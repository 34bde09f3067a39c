"""SAR scenes to geo-referenced tiles of fixed ground extent, with a catalog (paper 3.1, FUSAR-GEOVL)."""

from fusar_klip.tiles.build import BuildSummary, build
from fusar_klip.tiles.estimate import BuildEstimate, estimate
from fusar_klip.tiles.settings import BuildSettings

__all__ = ["BuildEstimate", "BuildSettings", "BuildSummary", "build", "estimate"]
