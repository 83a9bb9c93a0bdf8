#!/usr/bin/env bash
# The paper's road (docs/paper.md) on stand-ins: raw rows to verdict and page, in minutes on two cores.
#
#   bash benchmarks/rehearsal.sh [FOLDER]
#
# FOLDER: raw rows of Amazon_Fashion; without it rows are generated. The road is gone in a clone of the last
# commit below runs/rehearsal, where its lock can be committed; given again, it goes on where it was. Ends
# with 0 if every step is done; what the verdicts say is of no meaning.
set -euo pipefail
cd "$(dirname "$0")/.."
here=$PWD
rows=${1:+$(realpath "$1")}
bin=$here/.venv/bin
[ -x "$bin/opdcliff" ] || bin=$(dirname "$(command -v opdcliff)")
work=${OPDCLIFF_RUNS:-$here/runs}/rehearsal
checkout=$work/checkout
commit=$(git rev-parse HEAD)
if [ "$(cat "$work/commit" 2>/dev/null || true)" != "$commit" ]; then
    rm -rf "$work"
    mkdir -p "$work"
    git clone -q --shared "$here" "$checkout"
    git -C "$checkout" checkout -q "$commit"
    echo "$commit" >"$work/commit"
fi
git diff --quiet HEAD || echo "rehearsal: changes that are not committed are not rehearsed"
unset OPDCLIFF_RUNS
export PYTHONPATH=$checkout/src OMP_NUM_THREADS=1
cd "$checkout"

taken=()
# A step and the seconds it took; its exit code may be one of those in $allowed.
step() {
    local name=$1 begun=$SECONDS code=0
    shift
    echo "== $name: $*"
    "$@" || code=$?
    case " ${allowed:-0} " in
    *" $code "*) ;;
    *)
        echo "rehearsal: $name ended with $code; its command: $*" >&2
        exit "$code"
        ;;
    esac
    taken+=("$(printf '%-14s %5d s' "$name" $((SECONDS - begun)))")
}

if [ -z "$rows" ]; then
    rows=$work/rows
    if [ ! -d "$rows" ]; then
        rm -rf "$rows.part"
        step "rows" "$bin/python" benchmarks/made_rows.py "$rows.part" 40000
        mv "$rows.part" "$rows"
    fi
fi
# A stand-in for the two checkpoints, which the road loads and fine-tunes.
sizes=(data.candidates=4 data.train=380 data.calibration=80 data.test=120 data.max_history=1 data.max_title_words=3)
made=$work/stand_in
if [ ! -d "$made" ]; then
    step "stand-in" "$bin/opdcliff" prepare data=amazon_fashion "data.path=$rows" "${sizes[@]}" \
        sft.teacher.steps=500 sft.student.steps=1
    rm -rf "$made.part"
    cp -r "$(ls -d runs/assets/models-* | head -n 1)" "$made.part"
    mv "$made.part" "$made"
fi
rm -f "$work/judge"
"$bin/python" benchmarks/stand_in_judge.py >"$work/judge" &
judge=$!
trap 'kill $judge 2>/dev/null || true' EXIT
until [ -s "$work/judge" ]; do sleep 0.1; done

words=(experiment=rehearsal "data.path=$rows" "model.student=$made/teacher" "model.teacher=$made/teacher"
    grade.model=stand-in grade.key_variable=null "grade.base_url=$(cat "$work/judge")")
step "status" "$bin/opdcliff" status "${words[@]}"
step "lists" "$bin/opdcliff" prepare what=lists "${words[@]}"
# A judge at another port is another judge to `grade`, which does not write over a file.
[ -f runs/grades/rehearsal.jsonl ] || step "grades" "$bin/opdcliff" grade "${words[@]}"
step "models" "$bin/opdcliff" prepare what=models "${words[@]}"
step "calibration" "$bin/opdcliff" calibrate "${words[@]}"
step "prediction" "$bin/opdcliff" predict "${words[@]}"
step "plan" "$bin/opdcliff" plan "${words[@]}" memory_gb=16
if [ ! -f prereg/rehearsal/lock.json ]; then
    step "lock" "$bin/opdcliff" lock "${words[@]}"
fi
if [ -n "$(git status --porcelain prereg/rehearsal)" ]; then
    git add prereg/rehearsal
    git -c user.name=rehearsal -c user.email=rehearsal@example.org commit -qm "Lock of the rehearsal"
fi
step "runs" "$bin/opdcliff" confirm "${words[@]}"
# Refuted, inconclusive or inadmissible: all are verdicts.
allowed="0 10 11 12" step "verdicts" "$bin/opdcliff" verify protocol=rehearsal
step "report" "$bin/opdcliff" report protocol=rehearsal
"$bin/opdcliff" status protocol=rehearsal | tee "$work/status"
printf '%s\n' "${taken[@]}"
grep -q "all steps are done" "$work/status"
