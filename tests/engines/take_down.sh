#!/bin/sh
# take_down.sh DIRECTORY: end what set_up.sh started, and remove DIRECTORY.
set -u
cd "$1" || exit
if [ -e docker/dockerd.pid ]; then
    kill "$(cat docker/dockerd.pid)"
    while [ -e docker/dockerd.pid ]; do sleep 0.1; done
fi
if [ -e namespace.pid ]; then
    bin/podman container rm -f -a >/dev/null 2>&1
    # The network is the machine's: only the mounts are the namespace's own.
    inside="nsenter -t $(cat namespace.pid) -m"
    $inside nft delete table inet netavark 2>/dev/null
    $inside ip link del podman0 2>/dev/null
    kill "$(cat namespace.pid)"
    for group in libpod_parent llmux-engines; do
        find /sys/fs/cgroup/unified/$group -depth -type d -exec rmdir {} + 2>/dev/null
    done
fi
directory=$PWD
cd / && rm -rf --one-file-system "$directory"
