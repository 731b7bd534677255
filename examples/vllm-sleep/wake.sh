#!/bin/sh
# wake.sh COMMAND...: wake the model.  If its server does not run, COMMAND
# starts it (in the background) and it comes up awake.
#
# VLLM_CHECK, if set, is a command that succeeds while the server runs, be it
# ready or not; once it fails, there is nothing to wait for.

cd "$(dirname "$0")" || exit
. ./vllm.sh

ask || exit
if [ -z "$state" ]; then
    "$@" || exit
    # wake_timeout_secs ends this if the server never comes up.
    until ask && [ -n "$state" ]; do
        if [ -n "${VLLM_CHECK-}" ] && ! sh -c "$VLLM_CHECK"; then
            echo "the server ended before it was ready; its own log says why" >&2
            exit 1
        fi
        sleep 0.5
    done
fi
if [ "$state" = asleep ]; then
    post /wake_up || exit
fi
