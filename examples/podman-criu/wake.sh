#!/bin/sh
# wake.sh CONTAINER: restore the container from its checkpoint; start it from
# nothing if it has none, or if the checkpoint is of no use.

set -u
container=$1
case $(podman container inspect --format '{{.State.Status}} {{.State.Checkpointed}}' "$container") in
    '') exit 1 ;;
    running*) exit 0 ;;
    paused*) exec podman container unpause "$container" ;;
    *true)
        podman container restore --tcp-established --file-locks "$container" && exit 0
        echo "$container cannot be restored: starting it from nothing" >&2
        ;;
esac
podman container start "$container"
