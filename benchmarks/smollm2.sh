#!/usr/bin/env bash
# The first cliff on a pretrained model, or its absence: SmolLM2-135M, homogeneous and heterogeneous
# reasons, below and above lambda* at c = 5 and c = 2, two seeds, two step sizes; on one GPU.
#
#   bash benchmarks/smollm2.sh FOLDER [SECONDS] [group=option] [key.field=value] ...
#
# FOLDER: the rows of Amazon_Fashion (docs/data.md). SECONDS: of GPU time, 570 unless given. When they
# are over, what runs is asked to stop, keeps where it is and ends with 9; the same command goes on.
# Written for an 80 GB card (H100) and NOT YET RUN on one: minutes are planned from runs measured
# elsewhere (45 to 120 s for 60 updates with others beside). 4 workers for each of two studies side by
# side hold about 8 x 8 GB.
set -euo pipefail
rows=${1:?give the folder of the Amazon_Fashion rows}
end=$((SECONDS + ${2:-570}))
words=("data.path=$rows" "${@:3}")
# TF32 for matrix products in float32.
export TORCH_ALLOW_TF32_CUBLAS_OVERRIDE=1

# A verb in what is left of the time.
verb() {
    local left=$((end - SECONDS))
    if [ "$left" -le 0 ]; then return 9; fi
    timeout --preserve-status --signal=TERM --kill-after=30 "$left" opdcliff "$@" "${words[@]}"
}

# Models, p and b, what settled students would do; then runs at two step sizes, and a pilot below them,
# which no run waits for (it ends with 6 where positions differ so much that there is no one cliff).
chain() {
    local name=$1
    verb calibrate "experiment=$name" &&
        verb preview "experiment=$name" &&
        verb study "experiment=$name" &&
        verb study "experiment=$name" "protocol.name=${name}_small_step" optim.lr=3.0e-5 &&
        verb predict "experiment=$name" pilot=0.6 seeds=2
} >>"runs/$1.log" 2>&1

mkdir -p runs
# A model of one's own in its place needs none.
[[ " $* " == *" model.student="* ]] || opdcliff fetch smollm2
chain smollm2_ranking & first=$!
chain smollm2_titles & second=$!
code=0
wait "$first" || code=$?
wait "$second" || code=$?
tail -n 3 runs/smollm2_ranking.log runs/smollm2_titles.log
exit "$code"
