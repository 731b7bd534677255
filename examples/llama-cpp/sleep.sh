#!/bin/sh
# Stop the model's server, and wait until it is gone.
# Does nothing when it does not run.

cd "$(dirname "$0")" || exit
. ./server.sh

tries=0
while running; do
    case $tries in
        0) kill -TERM "$pid" ;;
        200) kill -KILL "$pid" ;; # after some 10 s
        400) echo "process $pid does not die" >&2 && exit 1 ;;
    esac
    tries=$((tries + 1))
    sleep 0.05
done
rm -f "$pidfile"
