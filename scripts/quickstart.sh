#!/usr/bin/env bash
# The environment, then one system end to end, from data to scores, on two CPU processes.
#
#     bash scripts/quickstart.sh [NAME] [--out DIR] ...
#     bash scripts/quickstart.sh text --help             # the options of one, once the environment is made
#
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
elif [ "${1-}" = --help ]; then
    exec sed -n '2,/^[^#]/s/^#\( \|$\)//p' "$0"
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
