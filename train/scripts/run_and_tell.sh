# Source this file: run_and_tell prints a command and runs it. If the command fails, its cause comes last: launchers bury
# it under a report of their own. The processes leave it in ERROR_FILE, those of other nodes on stderr; one that was
# killed could not say anything.

set -o pipefail # the pipe below fails as its command does

run_and_tell() { # run_and_tell command...
    local log
    echo "$*"
    log=$(mktemp -d)
    # A pipe, which is waited for until all of stderr has come through.
    if ! { ERROR_FILE=$log/error "$@" 2>&1 1>&3 3>&- | tee "$log/stderr" >&2; } 3>&1; then
        if [ -s "$log/error" ]; then
            head -n 1 "$log/error" >&2
        else
            tr '\r' '\n' <"$log/stderr" | grep -o -m 1 'train: error: .*' >&2 ||
                echo "train: error: the run ended without a word (killed? out of memory?); start again to go on" >&2
        fi
        rm -rf "$log"
        exit 1
    fi
    rm -rf "$log"
}
