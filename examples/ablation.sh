#!/usr/bin/env bash
# The paper's table 8: effect of the pretraining texts. Four runs that differ only in their texts answer questions.
#
#   examples/ablation.sh [OUT]            default: out/ablation
#
#   template        fixed sentences from annotations (the paper's SARLANG)
#   all             the texts of `describe`, unchanged
#   screened        the same without the sentences that SCIO, with the run `all`, judges to be noise
#   reconstructed   the same with the noise rewritten by the run `screened`
#
# All runs start from random weights and train for the same number of steps. By default scenes are simulated and
# texts are rule-based: few of these sentences are false, so screening changes little. Variables and defaults:
#
#   SCENES=20 SIZE=3072     simulated scenes to pretrain on, and their side in pixels
#   CHIP_SCENES=55          simulated scenes of 1024 pixels that questions are asked on
#   SETTINGS="seed=1"       settings of all four pretrainings, each KEY=VALUE
#   SCIO="judge=alone"      settings of screening and of reconstruction (docs/scio.md)
#   PROVIDER=measure        provider of `all`; a language model needs MODEL, too (docs/hcot.md)
#   DATASET= ANNOTATIONS=   your own data set, and annotations of its area for `template`
#   SUITE=                  another suite than configs/suite_ablation.toml
#
# Reads FUSAR_KLIP_DATA (default ../shared/data). Relative paths start at the root of the project. After an
# interruption the same command resumes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

OUT="$(realpath -m "${1:-out/ablation}")"
export PATH="$PWD/.venv/bin:$PATH"
export SIMULATED_LAND="$OUT/simulated_land" # named by the suite

if [[ -z "${DATASET:-}" ]]; then
    DATASET="$OUT/dataset"
    ANNOTATIONS="$OUT/scenes/truth"
    if [[ ! -e "$DATASET/dataset.json" ]]; then
        fusar-klip simulate "$OUT/scenes" --scenes "${SCENES:-20}" --size "${SIZE:-3072}" --seed 1
        fusar-klip build "$OUT"/scenes/*.tif --out "$DATASET" --set split.val=0.05 --set split.test=0.05
    fi
fi
if [[ ! -e "$SIMULATED_LAND/boxes/split.csv" ]]; then
    fusar-klip simulate "$OUT/chip_scenes" --scenes "${CHIP_SCENES:-55}" --size 1024 --seed 3
    python examples/simulated_chips.py "$OUT/chip_scenes" "$SIMULATED_LAND"
fi

# Each command prints the text version that it made; the same command again prints the same version.
version() { "$@" --json | python -c 'import json, sys; print(json.load(sys.stdin)["version"])'; }
train_options=() scio_options=()
for setting in ${SETTINGS:-}; do train_options+=(--set "$setting"); done
for setting in ${SCIO:-}; do scio_options+=(--set "$setting"); done
train() { # NAME VERSION
    fusar-klip pretrain "$DATASET" --out "$OUT/runs/$1" --config configs/pretrain_tiny.toml --resume \
        --set "texts.version=$2" "${train_options[@]}"
}
scio() { # NAME OF THE JUDGING RUN, VERSION, STAGE TO SKIP
    version fusar-klip refine "$DATASET" --checkpoint "$OUT/runs/$1" --texts "$2" --set "$3=false" \
        "${scio_options[@]}"
}

all=$(version fusar-klip describe "$DATASET" --provider "${PROVIDER:-measure}" ${MODEL:+--model "$MODEL"})
template=$(version fusar-klip describe "$DATASET" --provider template \
    --annotations "${ANNOTATIONS:?set ANNOTATIONS to the annotations of the data set}")
train all "$all"
screened=$(scio all "$all" reconstruct)
train screened "$screened"
reconstructed=$(scio screened "$screened" screen)
train template "$template"
train reconstructed "$reconstructed"

fusar-klip benchmark "$OUT/runs/template" "$OUT/runs/all" "$OUT/runs/screened" "$OUT/runs/reconstructed" \
    --out "$OUT/results" --suite "${SUITE:-configs/suite_ablation.toml}"
