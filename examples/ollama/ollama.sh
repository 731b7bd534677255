#!/bin/sh
# ollama.sh wake|sleep|alive [MODEL]: load a model, unload it, or say whether it is
# loaded.  MODEL is what Ollama calls it, if that is not LLMUX_MODEL.

set -u
url=http://$LLMUX_HOST:$LLMUX_PORT
model=${2:-$LLMUX_MODEL}

# Ollama completes a name without a tag.
case ${model##*/} in
    *:*) ;;
    *) model=$model:latest ;;
esac

# keep_alive SECONDS: load the model for so long; -1 for ever, 0 unloads it.
# A refusal (no such model, no memory) goes to stderr, and so to llmux's log;
# what Ollama says of a success does not.
keep_alive() {
    answer=$(curl -sS --noproxy '*' --fail-with-body "$url/api/generate" \
        -H 'Content-Type: application/json' \
        -d "{\"model\": \"$model\", \"keep_alive\": $1, \"stream\": false}") ||
        { echo "$answer" >&2 && return 1; }
}

# Succeed if this very model is loaded: that Ollama answers says nothing.  Ollama
# takes a name in any case, and lists it as it was pulled.
loaded() {
    curl -sf --noproxy '*' "$url/api/ps" | tr -d ' ' | grep -Fiq "\"name\":\"$model\""
}

case $1 in
    alive) loaded ;;
    wake)
        keep_alive -1 || exit
        loaded && exit
        echo "Ollama has loaded $model, and /api/ps does not list it by this name:" >&2
        curl -s --noproxy '*' "$url/api/ps" >&2
        echo "Call it in config.yaml what \"ollama list\" calls it." >&2
        keep_alive 0
        exit 1
        ;;
    sleep)
        loaded || exit 0
        keep_alive 0 || exit
        while loaded; do
            sleep 0.1
        done
        ;;
    *)
        echo "usage: ollama.sh wake|sleep|alive [MODEL]" >&2
        exit 2
        ;;
esac
