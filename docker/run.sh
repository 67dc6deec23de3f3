#!/usr/bin/env bash
# Runs the image as it should be run: no rights, a read-only root, one tmpfs, tokens from a folder.
set -euo pipefail
cd "$(dirname "$0")/.."
. docker/engine.sh
target=${TARGET:-cpu}
image=${IMAGE:-diagonalflip:1.0.0-$target}
options=()
reject() { # SETTING FILE WHAT-IS-WRONG
  echo "FLIP_$1=$2 $3. Expected a file in a folder of its own, which is mounted as a whole." \
    "Copy it to one: docs/container.md shows how" >&2
  exit 2
}
# Mounts a file's folder: a mounted file stays what it was when an editor, sed -i or certbot puts
# another one in its place.
mount() { # SETTING FILE
  [ -f "$2" ] || reject "$1" "$2" "is not there"
  local folder
  folder=$(realpath "$(dirname "$2")")
  case "$PWD/" in "${folder%/}"/*) reject "$1" "$2" "lies beside other things, as the checkout" ;; esac
  [ "$(dirname "$(realpath "$2")")" = "$folder" ] || reject "$1" "$2" "is a link out of its folder"
  options+=(--volume "$folder:/run/files/$1:ro" --env "FLIP_$1=/run/files/$1/$(basename "$2")")
}
mount TOKENS_FILE "${FLIP_TOKENS_FILE:?set it to a file of tokens: make token NAME=someone TOKENS_FILE=access/tokens}"
options+=(--rm --publish "127.0.0.1:${FLIP_PUBLIC_PORT:-8443}:8443" --publish 127.0.0.1:8083:8083)
options+=(--read-only --tmpfs /tmp:mode=1777,noexec,nosuid,nodev --cap-drop ALL --security-opt no-new-privileges)
options+=(--memory "${MEMORY:-4g}" --pids-limit 512)
options+=(--env FLIP_LOG_FORMAT=text)
if [ -n "${FLIP_TLS_CERT:-}" ]; then
  mount TLS_CERT "$FLIP_TLS_CERT"
  mount TLS_KEY "${FLIP_TLS_KEY:?set it too: the private key of FLIP_TLS_CERT}"
else
  options+=(--env FLIP_PLAIN_HTTP=1)  # it is published on loopback only
fi
[ "$target" = gpu ] && options+=(--gpus all)
exec "$engine" run "${options[@]}" "$image"
