#!/usr/bin/env bash
# All tasks of the benchmark on the real data of the data folder, for a RUN and for the same model untrained.
#
#   examples/real_suite.sh RUN [OUT]      default: out/real_suite
#
# Reads FUSAR_KLIP_DATA (default ../shared/data). Relative paths start at the root of the project. After an
# interruption the same command resumes. It made the table in docs/results.md and docs/reports/real_suite.md.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

RUN="${1:?give a RUN folder of fusar-klip pretrain, such as demo/run}"
OUT="$(realpath -m "${2:-out/real_suite}")"
export PATH="$PWD/.venv/bin:$PATH"

# The data folder has too few images with land cover for questions and retrieval, so these are simulated.
export SIMULATED_LAND="$OUT/simulated_land" # named by the suite
if [[ ! -e "$SIMULATED_LAND/split.csv" ]]; then
    fusar-klip simulate "$OUT/scenes" --scenes 55 --size 1024 --seed 3
    python examples/simulated_chips.py "$OUT/scenes" "$SIMULATED_LAND"
fi

fusar-klip benchmark "$RUN" "untrained:$RUN" --out "$OUT/results" --suite configs/suite_real.toml
