#!/bin/sh
# wake.sh COMMAND...: start the model's server, and wait until it can serve.
# Does nothing when it already runs.  Fails when it ends before it is ready.

cd "$(dirname "$0")" || exit
. ./server.sh

if ! running; then
    if healthy; then
        echo "something else answers on port $LLMUX_PORT already" >&2
        exit 1
    fi
    [ ! -f "$log" ] || mv "$log" "$log.1"
    # Into a file, so that the server does not depend on who started it.
    "$@" >"$log" 2>&1 </dev/null &
    pid=$!
    since=$(started "$pid") && echo "$pid $since" >"$pidfile"
fi

until running && healthy; do
    if ! running; then
        echo "the server ended before it was ready; the end of $log:" >&2
        tail -n 20 "$log" >&2
        rm -f "$pidfile"
        exit 1
    fi
    sleep 0.1
done
