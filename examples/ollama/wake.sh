#!/bin/sh
# Load the model, and keep it.

cd "$(dirname "$0")" || exit
. ./ollama.sh
keep_alive -1 || exit
loaded && exit
echo "Ollama has loaded $model, and /api/ps does not list it by this name:" >&2
curl -s --noproxy '*' "$url/api/ps" >&2
echo "Call it in config.yaml what \"ollama list\" calls it." >&2
keep_alive 0
exit 1
