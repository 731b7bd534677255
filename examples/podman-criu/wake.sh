#!/bin/sh
# wake.sh CONTAINER: restore the container from its checkpoint; start it from
# nothing if it has none, or if the checkpoint is of no use.  Then wait until its
# server answers: one that ends before that fails the wake at once.

set -u
container=$1

state() {
    podman container inspect --format '{{.State.Status}}' "$container"
}

# Bring it up in one way or the other.
up() {
    case $(podman container inspect --format '{{.State.Status}} {{.State.Checkpointed}}' "$container") in
        '') return 1 ;;
        running*) return ;;
        paused*) podman container unpause "$container"; return ;;
        *true)
            podman container restore --tcp-established --file-locks "$container" && return
            echo "$container cannot be restored: starting it from nothing" >&2
            ;;
    esac
    podman container start "$container"
}

up || exit
# wake_timeout_secs ends this if the server never answers.
until curl -sf --noproxy '*' -o /dev/null "http://$LLMUX_HOST:$LLMUX_PORT/health"; do
    if [ "$(state)" != running ]; then
        echo "$container ended before it was ready; the end of its log:" >&2
        podman container logs --tail 20 "$container" >&2
        exit 1
    fi
    sleep 0.1
done
