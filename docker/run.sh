#!/usr/bin/env bash
# Runs the image as it should be run: no rights, a read-only root, one tmpfs, tokens from a file.
set -euo pipefail
cd "$(dirname "$0")/.."
. docker/engine.sh
target=${TARGET:-cpu}
image=${IMAGE:-diagonalflip:1.0.0-$target}
tokens=$(realpath "${TOKENS_FILE:?set TOKENS_FILE: make token NAME=someone TOKENS_FILE=tokens}")
options=(--rm --publish "127.0.0.1:${EDGE_PORT:-8443}:8443" --publish 127.0.0.1:8083:8083)
options+=(--read-only --tmpfs /tmp:mode=1777,noexec,nosuid,nodev --cap-drop ALL --security-opt no-new-privileges)
options+=(--memory "${MEMORY:-4g}" --pids-limit 512)
options+=(--volume "$tokens:/run/tokens:ro" --env TOKENS_FILE=/run/tokens --env LOG_FORMAT=text)
if [ -n "${TLS_CERT:-}" ]; then
  options+=(--volume "$(realpath "$TLS_CERT"):/run/tls.crt:ro" --env TLS_CERT=/run/tls.crt)
  options+=(--volume "$(realpath "$TLS_KEY"):/run/tls.key:ro" --env TLS_KEY=/run/tls.key)
else
  options+=(--env PLAIN_HTTP=1)  # it is published on loopback only
fi
[ "$target" = gpu ] && options+=(--gpus all)
exec "$engine" run "${options[@]}" "$image"
