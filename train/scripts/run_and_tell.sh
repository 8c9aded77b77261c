# Source this file: run_and_tell prints a command and runs it. If the command fails, the error line of train.py comes
# last, because launchers bury it under a report of their own. A process that was killed could not say anything.

set -o pipefail # the pipe below fails as its command does

run_and_tell() { # run_and_tell command...
    local log
    echo "$*"
    log=$(mktemp)
    # A pipe, which is waited for until all of stderr has come through.
    if ! { "$@" 2>&1 1>&3 3>&- | tee "$log" >&2; } 3>&1; then
        tr '\r' '\n' <"$log" | grep -m 1 '^train: error: ' >&2 ||
            echo "train: error: the run ended without a word (killed? out of memory?); start again to go on" >&2
        rm -f "$log"
        exit 1
    fi
    rm -f "$log"
}
