# What wake.sh, sleep.sh and alive.sh share.  Sourced by them.  Their argument, if
# there is one, is what Ollama calls the model; else LLMUX_MODEL is.

url=http://127.0.0.1:$LLMUX_PORT
model=${1:-$LLMUX_MODEL}

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

# Succeed if this very model is loaded.  Ollama takes a name in any case, and
# lists it as it was pulled.
loaded() {
    curl -sf --noproxy '*' "$url/api/ps" | tr -d ' ' | grep -Fiq "\"name\":\"$model\""
}
