"""Search the tiles of a data set by a text or an image, optionally within a bounding box.

`build_index` embeds the tiles of a data set and writes an index; `search` ranks the tiles for a query;
`first_relevant_rank` measures how well a query finds a known place. This package trains no model, and changes
neither tiles nor texts.
"""

from fusar_klip.search.evaluate import FirstRelevantRank, first_relevant_rank
from fusar_klip.search.geography import BBox
from fusar_klip.search.index import IndexSummary, build_index
from fusar_klip.search.query import SearchHit, SearchResults, search

__all__ = [
    "BBox",
    "FirstRelevantRank",
    "IndexSummary",
    "SearchHit",
    "SearchResults",
    "build_index",
    "first_relevant_rank",
    "search",
]
