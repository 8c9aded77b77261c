# Source this file from a bash script: it makes the Python environment when it is missing or out of date, and activates
# it. The environment is .venv in the repository root; the variable VENV names another place.

if [[ $0 = "${BASH_SOURCE[0]}" && "$*" = --help ]]; then exec sed -n '/^#/!q;s/^# //p' "$0"; fi
REPO_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV=${VENV:-$REPO_ROOT/.venv}
REQUIREMENTS_LOCK=${REQUIREMENTS_LOCK:-requirements.lock}

# Prints the first Python that is new enough; fails when there is none.
find_python() {
    local python
    for python in python3 python3.13 python3.12 python3.11; do
        if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$python"
            return
        fi
    done
    return 1
}

# Prints one line per missing thing, with the Debian package that holds it; fails when there is any.
check_tools() {
    local python missing=0
    need() { # need "what" "package" command...
        local what=$1 package=$2
        shift 2
        "$@" >/dev/null 2>&1 && return
        echo "error: $what is missing: apt-get install $package" >&2
        missing=1
    }
    if python=$(find_python); then
        need "Python's venv module" python3-venv "$python" -c 'import ensurepip, venv'
        need "Python's header file Python.h (torch compiles with it)" python3-dev "$python" -c \
            'import os, sysconfig; os.stat(os.path.join(sysconfig.get_path("include"), "Python.h"))'
    else
        need "Python 3.11 or newer" "python3.11 python3-venv" false
    fi
    need "the C++ compiler g++ (torch compiles with it)" g++ g++ --version
    need "Java (METEOR runs on it)" openjdk-17-jre-headless java -version
    return "$missing"
}

# Installs the packages at the versions of requirements.lock (REQUIREMENTS_LOCK names another file), builds of sdists
# included, and this repository's own in place. pip comes first: that of Python may be too old for --build-constraint.
install_packages() (
    cd "$REPO_ROOT" || exit 1
    pip=("$VENV/bin/python" -m pip --disable-pip-version-check)
    [ -t 1 ] || pip+=(-qq) # a log needs no line for each package
    locked=(install -c "$REQUIREMENTS_LOCK" --build-constraint "$REQUIREMENTS_LOCK")
    echo "Installing the Python packages into $VENV (a few minutes the first time)"
    # A package without RECORD is one in which pip was interrupted: forget it, so that pip installs it again.
    find "$VENV"/lib/python3*/site-packages -maxdepth 1 -name '*.dist-info' \
        ! -exec test -e '{}/RECORD' ';' -exec rm -r '{}' +
    rm -rf "$VENV/towers"
    "${pip[@]}" install --upgrade -c "$REQUIREMENTS_LOCK" pip setuptools &&
        "${pip[@]}" "${locked[@]}" -r requirements.txt &&
        "${pip[@]}" "${locked[@]}" --no-deps -r requirements-no-deps.txt -e ./train -e ./eval/lmms-eval &&
        "${pip[@]}" "${locked[@]}" --no-deps --target "$VENV/towers" -r requirements-towers.txt
)

prepare_environment() {
    local stamp=$VENV/installed.txt wanted
    check_tools || return 1
    if ! "$VENV/bin/python" -c 'import pip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        echo "Making the Python environment $VENV"
        "$(find_python)" -m venv "$VENV" || return 1
    fi
    # The stamp is written last: an installation that was interrupted starts again. It holds the checkout's place too,
    # because the repository's own packages are installed in place.
    wanted=$(cd "$REPO_ROOT" && pwd &&
        cat requirements*.txt "$REQUIREMENTS_LOCK" scripts/environment.sh {train,eval/lmms-eval}/pyproject.toml | sha256sum)
    if [ "$wanted" != "$(cat "$stamp" 2>/dev/null)" ]; then
        install_packages || return 1
        echo "$wanted" >"$stamp"
    fi
    source "$VENV/bin/activate"
}

prepare_environment
