#!/usr/bin/env bash
# The paper's table 8: what pretraining texts bring. Four runs that differ in their texts alone answer questions.
#
#   examples/ablation.sh [OUT]            default: out/ablation
#
#   template        fixed sentences from annotations (the paper's SARLANG)
#   all             the texts of the text engine, as they are
#   screened        those without what SCIO, by the run `all`, calls noise
#   reconstructed   those with the noise written anew by the run `screened`, whose decoder has learned from them
#
# All are trained from fresh weights for as many steps. Without more variables, scenes are simulated and texts
# are measured: few of those are false, so there is little to screen. Smaller and larger:
#
#   SCENES=20 SIZE=3072     simulated scenes to pretrain on, and their side in pixels
#   CHIP_SCENES=55          simulated scenes of 1024 pixels that questions are asked on
#   SETTINGS="seed=1"       settings of all four pretrainings, each KEY=VALUE
#   SCIO="judge=alone"      settings of screening and of reconstruction (docs/scio.md)
#   PROVIDER=measure        who writes `all`; a language model takes MODEL too (docs/hcot.md)
#   DATASET= ANNOTATIONS=   a data set of your own, and what is annotated on its ground, for `template`
#   SUITE=                  another suite than configs/suite_ablation.toml
#
# Reads FUSAR_KLIP_DATA (default ../shared/data). Relative paths start at the root of the project. After an
# interruption the same command goes on where it stood.
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

# Each command prints the text version that it made; the same command again names the same one.
version() { "$@" --json | python -c 'import json, sys; print(json.load(sys.stdin)["version"])'; }
train_options=() scio_options=()
for setting in ${SETTINGS:-}; do train_options+=(--set "$setting"); done
for setting in ${SCIO:-}; do scio_options+=(--set "$setting"); done
train() { # NAME VERSION
    fusar-klip pretrain "$DATASET" --out "$OUT/runs/$1" --config configs/pretrain_tiny.toml --resume \
        --set "texts.version=$2" "${train_options[@]}"
}
scio() { # NAME OF THE RUN THAT JUDGES, VERSION, WHICH HALF IS LEFT OUT
    version fusar-klip refine "$DATASET" --checkpoint "$OUT/runs/$1" --texts "$2" --set "$3=false" \
        "${scio_options[@]}"
}

all=$(version fusar-klip describe "$DATASET" --provider "${PROVIDER:-measure}" ${MODEL:+--model "$MODEL"})
template=$(version fusar-klip describe "$DATASET" --provider template \
    --annotations "${ANNOTATIONS:?name what is annotated on the data set}")
train all "$all"
screened=$(scio all "$all" reconstruct)
train screened "$screened"
reconstructed=$(scio screened "$screened" screen)
train template "$template"
train reconstructed "$reconstructed"

fusar-klip benchmark "$OUT/runs/template" "$OUT/runs/all" "$OUT/runs/screened" "$OUT/runs/reconstructed" \
    --out "$OUT/results" --suite "${SUITE:-configs/suite_ablation.toml}"
