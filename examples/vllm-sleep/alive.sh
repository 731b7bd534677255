#!/bin/sh
# Succeed if the server runs, is not asleep and says that it can serve.

cd "$(dirname "$0")" || exit
. ./vllm.sh
ask && [ "$state" = awake ] && curl -sf --noproxy '*' -o /dev/null "$url/health"
