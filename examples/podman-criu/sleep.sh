#!/bin/sh
# sleep.sh CONTAINER: write the container, GPU memory included, to disk, and end
# it.  If it cannot be checkpointed it is stopped: the GPU must be free.

set -u
container=$1
case $(podman container inspect --format '{{.State.Status}}' "$container") in
    '') exit 1 ;;
    running) ;;
    *) exit 0 ;;
esac
podman container checkpoint --tcp-established --file-locks "$container" && exit 0
echo "$container cannot be checkpointed: stopping it" >&2
podman container stop "$container"
