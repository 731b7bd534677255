#!/bin/sh
# wake.sh COMMAND...: wake the model.  If its server does not run, COMMAND
# starts it (in the background) and it comes up awake.

cd "$(dirname "$0")" || exit
. ./vllm.sh

ask || exit
if [ -z "$state" ]; then
    "$@" || exit
    # wake_timeout_secs ends this if it never comes up.
    until ask && [ -n "$state" ]; do
        sleep 0.5
    done
fi
if [ "$state" = asleep ]; then
    post /wake_up || exit
fi
