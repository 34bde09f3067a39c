"""The rank of the first tile in a box for a query without a box, as a Markdown table.

python examples/port_rank.py QUERY W,S,E,N INDEX...
"""

import sys
from pathlib import Path

from fusar_klip.search import rank_of_first


def main() -> None:
    query, box, *indices = sys.argv[1:]
    west, south, east, north = (float(degrees) for degrees in box.split(","))
    print(f'Query "{query}" without a box; place {box}\n')
    print("| Index | Rank of first tile there | Expected by chance | Chance of that or better | Tiles |")
    print("|---|---|---|---|---|")
    for index in indices:
        found = rank_of_first(Path(index), query, (west, south, east, north))
        print(
            f"| {Path(index).name} | {found.rank} | {found.expected_by_chance:.1f} "
            f"| {found.chance_of_rank:.2f} | {found.inside} of {found.indexed} there |"
        )


if __name__ == "__main__":
    main()
