#!/bin/sh
# Builds what `hil run --bench emulated` boots: a Debian kernel, and a root file system with Python and the libraries
# that the flight software needs. The flight software itself is put in afresh at each run.
# Use: sh boards/qemu_x86/build.sh [FOLDER]       (root, on Debian 12, with debootstrap and cpio)
set -eu

FOLDER=${1:-build/emulated}
PIP=${PIP:-.venv/bin/pip}
SUITE=bookworm

stop() { printf 'image stopped: %s\n' "$*" >&2; exit 1; }

[ "$(id -u)" = 0 ] || stop "needs root, for debootstrap"
for program in debootstrap cpio dpkg; do
    command -v "$program" >/dev/null 2>&1 || stop "'$program' is not there. On Debian: apt install debootstrap cpio"
done
[ -x "$PIP" ] || stop "'$PIP' is not there: make build"
"${PIP%pip}python" -c 'import sys; raise SystemExit(sys.version_info[:2] != (3, 11))' ||
    stop "$SUITE has Python 3.11, the environment has another: its compiled modules would not load"

mkdir -p "$FOLDER"
parts=$(mktemp -d "$FOLDER/parts.XXXXXX")
trap 'rm -rf "$parts"' EXIT

echo "kernel"
package=$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends: linux-image-/ { print $2; exit }')
[ -n "$package" ] || stop "no kernel package is known; on Debian: apt-get update"
(cd "$parts" && apt-get -qq download "$package" && dpkg -x linux-image-*.deb kernel)
cp "$parts"/kernel/boot/vmlinuz-* "$FOLDER/vmlinuz"

echo "root file system"
debootstrap --variant=minbase --include=python3 "$SUITE" "$parts/root" >"$FOLDER/build.log" 2>&1 ||
    stop "debootstrap failed, see $FOLDER/build.log"
rm -rf "$parts"/root/usr/share/doc "$parts"/root/usr/share/man "$parts"/root/usr/share/locale \
    "$parts"/root/var/cache/apt "$parts"/root/var/lib/apt/lists

echo "libraries"
"$PIP" -q --disable-pip-version-check install --target "$parts/root/opt/libraries" \
    cffi numpy pyserial construct sgp4 cryptography >>"$FOLDER/build.log" 2>&1 || stop "pip failed, see $FOLDER/build.log"
install -m 755 boards/qemu_x86/init "$parts/root/init"

echo "packing"
(cd "$parts/root" && find . -xdev | cpio --quiet -o -H newc | gzip -1) >"$FOLDER/image.new"
mv "$FOLDER/image.new" "$FOLDER/image.cpio.gz"
ls -l "$FOLDER/vmlinuz" "$FOLDER/image.cpio.gz"
