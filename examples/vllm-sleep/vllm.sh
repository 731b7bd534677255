#!/bin/sh
# vllm.sh wake|sleep|alive CONTAINER: have a vLLM server in a container of Docker's wake
# up, go to sleep, or say whether it is awake.

set -u
container=$2
url=http://$LLMUX_HOST:$LLMUX_PORT

# Set $state: awake, asleep, or nothing if nobody answers.  Fail, with a word
# about it, if the answer is not that of a vLLM with sleep mode.
#
# No time limit: a server too busy to answer is not known to be asleep, and
# llmux (alive_timeout_secs) tells the two apart.
ask() {
    state=
    answer=$(curl -sS --noproxy '*' -w '\n%{http_code}' "$url/is_sleeping" 2>/dev/null) || return 0
    status=${answer##*
}
    answer=${answer%
*}
    case $status$(printf %s "$answer" | tr -d ' ') in
        '200{"is_sleeping":false}') state=awake ;;
        '200{"is_sleeping":true}') state=asleep ;;
        5*)
            echo "$url/is_sleeping answers $status: the engine is dead or broken: $answer" >&2
            return 1
            ;;
        *)
            echo "$url/is_sleeping answers $status: $answer" >&2
            echo "Does it run with VLLM_SERVER_DEV_MODE=1 and --enable-sleep-mode?" >&2
            return 1
            ;;
    esac
}

post() {
    curl -sS --noproxy '*' --fail-with-body -o /dev/fd/2 -X POST "$url$1"
}

# What matters is that the GPU is free.
stop() {
    exec docker stop "$container" >/dev/null
}

case $1 in
    alive)
        # That a server is healthy says nothing: one that sleeps is.
        ask && [ "$state" = awake ] && curl -sf --noproxy '*' -o /dev/null "$url/health"
        ;;
    wake)
        ask || exit
        if [ -z "$state" ]; then
            docker start "$container" >/dev/null || exit
            # wake_timeout_secs ends this if the server never comes up.
            until ask && [ -n "$state" ]; do
                if ! docker top "$container" >/dev/null 2>&1; then
                    echo "$container ended before it was ready; the end of its log:" >&2
                    docker logs --tail 20 "$container" >&2
                    exit 1
                fi
                sleep 0.5
            done
        fi
        [ "$state" = awake ] || post /wake_up
        ;;
    sleep)
        # It may hang, or still be loading.
        ask && [ -n "$state" ] || stop
        [ "$state" = asleep ] || post '/sleep?level=1' || stop
        until ask && [ "$state" = asleep ]; do
            [ -n "$state" ] || stop
            sleep 0.1
        done
        ;;
    *)
        echo "usage: vllm.sh wake|sleep|alive CONTAINER" >&2
        exit 2
        ;;
esac
