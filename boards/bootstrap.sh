#!/bin/sh
# Sets up .venv with the flight software, the rig and the ground station in it. Called by the Makefile.
# What Debian splits off its python3 (pip for new environments, the C headers) is taken from Debian's own
# packages without installing them, so that python3, gcc and make are all that must be there.
# EXTRAS= sets up the flight software alone, as a board needs it.
set -eu

PYTHON=${PYTHON:-python3}
VENV=${VENV:-.venv}
EXTRAS=${EXTRAS-[hil,console,dev]}
PARTS="$VENV/debian"

say() { printf '%s\n' "$*" >&2; }
stop() { say "set-up stopped: $*"; exit 1; }

command -v "$PYTHON" >/dev/null 2>&1 || stop "'$PYTHON' is not there. On Debian: apt install python3"
command -v "${CC:-cc}" >/dev/null 2>&1 || stop "a C compiler is not there. On Debian: apt install gcc libc6-dev"
"$PYTHON" -c 'import sys; raise SystemExit(sys.version_info < (3, 11))' ||
    stop "$("$PYTHON" --version) is too old, 3.11 or newer is needed"

# Unpack Debian packages into $PARTS, without root and without installing.
fetch_debian() {
    command -v apt-get >/dev/null 2>&1 && command -v dpkg >/dev/null 2>&1 ||
        stop "$* missing. Install pip for virtual environments and the Python headers, then try again"
    mkdir -p "$PARTS/deb"
    if ! (cd "$PARTS/deb" && apt-get -qq download "$@" 2>/dev/null); then
        if [ "$(id -u)" = 0 ]; then apt-get -qq update; fi
        (cd "$PARTS/deb" && apt-get -qq download "$@") ||
            stop "cannot fetch $*. On Debian: apt install python3-venv python3-dev"
    fi
    for package in "$PARTS"/deb/*.deb; do dpkg -x "$package" "$PARTS"; done
    rm -rf "$PARTS/deb"
}

VERSION=$("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
mkdir -p "$VENV"

if [ ! -x "$VENV/bin/pip" ]; then
    say "creating $VENV"
    if "$PYTHON" -c 'import ensurepip' >/dev/null 2>&1; then
        "$PYTHON" -m venv "$VENV"
    else
        "$PYTHON" -m venv --without-pip "$VENV"
        fetch_debian python3-pip-whl
        pip_wheel=$(ls "$PARTS"/usr/share/python-wheels/pip-*.whl)
        PYTHONPATH="$pip_wheel" "$VENV/bin/python" -m pip -q install --no-index --find-links "$(dirname "$pip_wheel")" pip
    fi
fi

HEADERS=$("$PYTHON" -c 'import sysconfig; print(sysconfig.get_paths()["include"])')
if [ ! -f "$HEADERS/Python.h" ]; then
    [ -f "$PARTS/usr/include/python$VERSION/Python.h" ] || fetch_debian "libpython$VERSION-dev"
    parts=$(cd "$PARTS" && pwd)
    CFLAGS="${CFLAGS:-} -I$parts/usr/include/python$VERSION -I$parts/usr/include"
    export CFLAGS
fi

say "installing (this takes a minute the first time)"
log="$VENV/setup.log"
if ! "$VENV/bin/pip" --disable-pip-version-check -q install --editable ".$EXTRAS" >"$log" 2>&1; then
    cat "$log" >&2
    stop "pip failed; the lines above say why ($log)"
fi
