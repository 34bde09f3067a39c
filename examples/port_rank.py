"""Rank of the first tile at a place for a query without a box, as a Markdown table.

python examples/port_rank.py QUERY W,S,E,N INDEX...
"""

import sys
from pathlib import Path

from fusar_klip.search import first_relevant_rank


def main() -> None:
    query, box, *indices = sys.argv[1:]
    west, south, east, north = (float(degrees) for degrees in box.split(","))
    print(f'Query "{query}" without a box; place {box}\n')
    print("| Index | Rank of first tile there | Expected at random | Probability of that or better | Tiles |")
    print("|---|---|---|---|---|")
    for index in indices:
        found = first_relevant_rank(Path(index), query, (west, south, east, north))
        print(
            f"| {Path(index).name} | {found.rank} | {found.expected_at_random:.1f} "
            f"| {found.probability_at_random:.2f} | {found.relevant} of {found.indexed} there |"
        )


if __name__ == "__main__":
    main()
