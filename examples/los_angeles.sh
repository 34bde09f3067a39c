#!/usr/bin/env bash
# The pipeline on real scenes: Sentinel-1 at Los Angeles and in Orange County, Umbra at Mount Yasur.
#
#   examples/los_angeles.sh [OUT]         default: out/los_angeles
#
# Reads FUSAR_KLIP_DATA (default ../shared/data). Relative paths start at the root of the project. After an
# interruption the same command resumes. It made the numbers in docs/results.md.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

export FUSAR_KLIP_DATA="${FUSAR_KLIP_DATA:-../shared/data}"
OUT="$(realpath -m "${1:-out/los_angeles}")"
export OUT
export LOS_ANGELES_DATASET="$OUT/dataset" # named by the suite
export PATH="$PWD/.venv/bin:$PATH"

PORTS="-118.29,33.70,-118.17,33.79" # Los Angeles and Long Beach: west, south, east, north
QUERY="container terminal with ships alongside"

fusar-klip build \
    "$FUSAR_KLIP_DATA"/geo/S1A_*.tif "$FUSAR_KLIP_DATA"/geo/umbra_yasur/umbra_mount_yasur.tiff \
    --out "$OUT/dataset"
# A text version is never edited, so it is written once.
[[ -e "$OUT/dataset/texts/v000.parquet" ]] || fusar-klip describe "$OUT/dataset"
fusar-klip pretrain "$OUT/dataset" --out "$OUT/run" --config configs/pretrain_tiny.toml --resume

fusar-klip index "$OUT/dataset" --checkpoint "$OUT/run" --out "$OUT/index"
fusar-klip search "$OUT/index" "$QUERY" --bbox "$PORTS" --top 5

# Without the box: does the query find the ports? Compared with chance and with the untrained model.
fusar-klip index "$OUT/dataset" --checkpoint "untrained:$OUT/run" --out "$OUT/index_untrained"
python examples/port_rank.py "$QUERY" "$PORTS" "$OUT/index" "$OUT/index_untrained" | tee "$OUT/port_rank.md"

fusar-klip benchmark "$OUT/run" "untrained:$OUT/run" \
    --out "$OUT/results" --suite configs/suite_los_angeles.toml
