#!/bin/sh
# Load the model, and keep it.

cd "$(dirname "$0")" || exit
. ./ollama.sh
keep_alive -1 && loaded
