#!/bin/sh
# Puts this checkout, and the mission and keys of one run, on a Raspberry Pi and starts the flight program afresh.
# Use: sh boards/raspberry_pi/flash.sh USER@HOST FILES     (called by `hil run --bench board`, see docs/benches.md)
set -eu

BOARD=$1
FILES=$(cd "$2" && pwd)
TRIES=60
cd "$(dirname "$0")/../.."

until ssh -o ConnectTimeout=2 -o BatchMode=yes "$BOARD" true 2>/dev/null; do
    TRIES=$((TRIES - 1))
    [ "$TRIES" -gt 0 ] || { printf 'flash stopped: %s does not answer\n' "$BOARD" >&2; exit 1; }
    sleep 2
done
rsync -a --delete --exclude .git --exclude .venv --exclude build --exclude out --exclude '*.so' --exclude _bin \
    ./ "$BOARD:flight/"
ssh "$BOARD" 'sudo systemctl stop flightsw-rig 2>/dev/null; rm -rf run; cd flight && EXTRAS= make -s build'
rsync -a "$FILES/" "$BOARD:run/"
ssh "$BOARD" 'sed "s|@HOME@|$HOME|g; s|@USER@|$USER|g" flight/boards/raspberry_pi/flightsw-rig.service |
    sudo tee /etc/systemd/system/flightsw-rig.service >/dev/null
    sudo systemctl daemon-reload && sudo systemctl start flightsw-rig'
