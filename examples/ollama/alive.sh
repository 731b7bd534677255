#!/bin/sh
# Succeed if this very model is loaded: that Ollama answers says nothing.

cd "$(dirname "$0")" || exit
. ./ollama.sh
loaded
