"""Search a data set in words, or by an image, within a box of degrees.

`build_index` embeds the tiles of a data set into a folder; `search` ranks them for a query;
`rank_of_first` says how well an unfiltered query finds a known place. It trains nothing, and writes no tile
and no text.
"""

from fusar_klip.search.evaluate import FirstRank, rank_of_first
from fusar_klip.search.geography import BBox
from fusar_klip.search.index import IndexSummary, build_index
from fusar_klip.search.query import Hit, SearchResults, search

__all__ = [
    "BBox",
    "FirstRank",
    "Hit",
    "IndexSummary",
    "SearchResults",
    "build_index",
    "rank_of_first",
    "search",
]
