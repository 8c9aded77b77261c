#!/usr/bin/env bash
# bash scripts/quickstart.sh [--out DIR] [--annotation FILE --images DIR] ...: the environment, then the main job from
# data to scores (scripts/quickstart.py; --help lists its options).
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
exec python "$REPO_ROOT/scripts/quickstart.py" "$@"
