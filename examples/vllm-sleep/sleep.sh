#!/bin/sh
# sleep.sh COMMAND...: put the model to sleep.  If its server does not answer,
# or does not go to sleep, COMMAND stops it: what matters is that the GPU is free.

cd "$(dirname "$0")" || exit
. ./vllm.sh

if ! ask || [ -z "$state" ]; then
    exec "$@"
fi
[ "$state" = asleep ] || post '/sleep?level=1' || exec "$@"
until ask && [ "$state" = asleep ]; do
    [ -n "$state" ] || exec "$@"
    sleep 0.1
done
