#!/bin/sh
# wake.sh CONTAINER: start the container, and wait until its server answers.  One that
# ends before that fails the wake at once, with the end of its log.

set -u
container=$1
state() {
    docker container inspect --format '{{.State.Status}}' "$container"
}

case $(state) in
    '') exit 1 ;;
    paused) docker unpause "$container" >/dev/null || exit ;;
    *) docker start "$container" >/dev/null || exit ;;
esac
# wake_timeout_secs ends this if the server never answers.
until curl -sf --noproxy '*' -o /dev/null "http://$LLMUX_HOST:$LLMUX_PORT/health"; do
    if [ "$(state)" != running ]; then
        echo "$container ended before it was ready; the end of its log:" >&2
        docker logs --tail 20 "$container" >&2
        exit 1
    fi
    sleep 0.1
done
