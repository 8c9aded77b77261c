#!/usr/bin/env bash
# bash benchmarks/gpu.sh --out DIR [--dry] [--parts environment,...] [--wheels DIR]
# What this checkout does on a GPU, in at most nine minutes: each part is a process of its own with a time limit and a
# JSON file in DIR. --dry: tiny sizes on a CPU. --wheels: packages that the machine lacks. benchmarks/README.md has more.
set -uo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
out='' dry='' parts=environment,correctness,graphs,generation,training,profile wheels=''
while (($#)); do
    case $1 in
        --out) out=$2; shift 2 ;;
        --parts) parts=$2; shift 2 ;;
        --wheels) wheels=$(realpath "$2"); shift 2 ;;
        --dry) dry=--dry; shift ;;
        *) echo "gpu.sh: error: unknown argument $1; see the top of the file" >&2; exit 2 ;;
    esac
done
declare -A limit=([environment]=35 [correctness]=85 [graphs]=115 [generation]=110) # seconds
limit+=([training]=90 [profile]=50 [families]=85) # families only where --parts names it
for part in ${parts//,/ }; do
    [[ ${limit[$part]:-} ]] || { echo "gpu.sh: error: unknown part $part; known: ${!limit[*]}" >&2; exit 2; }
done
[[ $out ]] || { echo "gpu.sh: error: --out DIR is missing" >&2; exit 2; }
mkdir -p "$out" && out=$(realpath "$out") || exit 2
export PYTHONPATH=$root:$root/train:$root/tests TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1 TQDM_DISABLE=1
if [[ $wheels ]]; then
    python3 -m pip install -q --no-index --no-deps --upgrade --target "$out/site" "$wheels"/*.whl || exit 1
    PYTHONPATH+=:$out/site
fi
status=0
for part in ${parts//,/ }; do
    begun=$SECONDS
    timeout -k 5 $((${limit[$part]} * (${#dry} ? 10 : 1))) python3 -m "benchmarks.gpu.$part" --json "$out/$part.json" $dry 2>>"$out/log.txt"
    code=$?
    echo "== $part: status $code (124: out of time) after $((SECONDS - begun)) s"
    ((code)) && status=1
done
exit $status
