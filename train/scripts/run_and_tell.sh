# Source this file: run_and_tell prints a command and runs it. If the command fails, the error line of train.py comes
# last, because launchers bury it under a report of their own. A process that was killed could not say anything.

run_and_tell() { # run_and_tell command...
    local log
    echo "$*"
    log=$(mktemp)
    if ! "$@" 2> >(tee "$log" >&2); then
        tr '\r' '\n' <"$log" | grep -m 1 '^train: error: ' >&2 ||
            echo "train: error: the run ended without a word (killed? out of memory?); start again to go on" >&2
        rm -f "$log"
        exit 1
    fi
    rm -f "$log"
}
