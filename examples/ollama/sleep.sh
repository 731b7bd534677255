#!/bin/sh
# Unload the model, and wait until it is gone.

cd "$(dirname "$0")" || exit
. ./ollama.sh
loaded || exit 0
keep_alive 0 || exit
while loaded; do
    sleep 0.1
done
