#!/bin/sh
# sleep.sh CONTAINER: write the container, GPU memory included, to disk, and end
# it.  If it cannot be checkpointed it is stopped: the GPU must be free.

set -u
container=$1

state() {
    podman container inspect --format '{{.State.Status}}' "$container"
}

stop() {
    podman container stop "$container" || podman container kill "$container"
}

case $(state) in
    '') exit 1 ;;
    running) ;;
    # It holds all its memory, and cannot be checkpointed as it is.
    paused) podman container unpause "$container" || { stop; exit; } ;;
    *) exit 0 ;;
esac

# A checkpoint that is cut short (at sleep_timeout_secs, or because llmux stops)
# leaves the server without a network, and llmux could not reach it again: so the
# container is ended.
child=
interrupted() {
    trap '' TERM INT
    [ -z "$child" ] || kill -TERM "$child" 2>/dev/null
    echo "the checkpoint of $container was cut short: killing the container" >&2
    podman container kill "$container"
    exit 1
}
trap interrupted TERM INT
podman container checkpoint --tcp-established --file-locks "$container" &
child=$!
wait "$child" && exit 0
child=
trap - TERM INT
echo "$container cannot be checkpointed: stopping it" >&2
stop
