#!/usr/bin/env bash
# bash scripts/quickstart.sh [report|NAME] [--out DIR] ...: the environment, then one system end to end, from data to
# scores, on two CPU processes (--help lists the options).
#   report    images to radiology reports; the default (scripts/quickstart.py)
#   text      a language model on generated text tasks (scripts/quickstart_text.py)
#   qwen3_vl  a vision-language model on generated tables (scripts/quickstart_qwen3_vl.py)
#   speech    DIFFA on synthetic speech, transcribed and asked about (scripts/quickstart_speech.py)
set -euo pipefail
scripts=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
name=report
if [[ ${1:-} =~ ^[a-z] ]]; then
    name=$1
    shift
fi
program=$scripts/quickstart_$name.py
if [ "$name" = report ]; then
    program=$scripts/quickstart.py
elif [ "$name" = common ] || [ ! -f "$program" ]; then
    echo "error: no quickstart is called $name: bash scripts/quickstart.sh --help, or one of" \
        report $(cd "$scripts" && ls quickstart_*.py | sed 's/quickstart_\(.*\).py/\1/; /common/d') >&2
    exit 1
fi
source "$scripts/environment.sh"
exec python "$program" "$@"
