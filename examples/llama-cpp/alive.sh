#!/bin/sh
# Succeed when the model's server runs and says that it can serve.
#
# No time limit here: one that is too busy to answer is not known to be
# asleep, and llmux (alive_timeout_secs) tells the two apart.

cd "$(dirname "$0")" || exit
. ./server.sh
running || exit 1

if command -v curl >/dev/null; then
    exec curl -sf --noproxy '*' -o /dev/null "http://127.0.0.1:$LLMUX_PORT/health"
fi
exec "${LLMUX_PYTHON:-python3}" -ISc '
import socket, sys
try:
    server = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
    server.sendall(b"GET /health HTTP/1.0\r\n\r\n")
    sys.exit(server.recv(64).split(b" ")[1:2] != [b"200"])
except OSError:
    sys.exit(1)
' "$LLMUX_PORT"
