#!/usr/bin/env bash
# Builds the image: make image [TARGET=cpu or gpu] [IMAGE=name:tag] [BASE_IMAGE=python:3.11-...]
# [PLATFORM=linux/arm64]
set -euo pipefail
cd "$(dirname "$0")/.."
. docker/engine.sh
target=${TARGET:-cpu}
image=${IMAGE:-diagonalflip:1.0.0-$target}
options=(--target "$target" --build-arg "REVISION=$(GIT_CEILING_DIRECTORIES=${PWD%/*} git rev-parse HEAD 2>/dev/null || echo unknown)")
pins=(cpu.txt:onnxruntime)
[ "$target" = gpu ] && pins=(serve.txt:torchserve torch.txt:torch)
for each in "${pins[@]}"; do
  pin=$(sed -n "s/^${each#*:}==\([0-9.]*\).*/\1/p" "requirements/${each%:*}")
  options+=(--label "diagonalflip.${each#*:}.version=$pin")
done
options+=(--label "diagonalflip.weights.sha256=$(sha256sum export/weights-1.0.json | cut -d ' ' -f 1)")
[ -n "${BASE_IMAGE:-}" ] && options+=(--build-arg "BASE_IMAGE=$BASE_IMAGE")
[ -n "${PLATFORM:-}" ] && options+=(--platform "$PLATFORM")
if [ "$engine" != docker ]; then
  options+=(--format docker)  # the other format has no HEALTHCHECK
  if [ -n "${PIP_CERT:-}${PIP_FIND_LINKS:-}" ]; then
    # This host's own pip settings, laid over the build; nothing of them stays in the image.
    conf=$(mktemp) && trap 'rm -f "$conf"' EXIT
    printf '[global]\n' > "$conf" && chmod 644 "$conf"
    options+=(--network host --volume "$conf:/etc/pip.conf:ro")
    if [ -n "${PIP_CERT:-}" ]; then
      printf 'cert = %s\n' "$PIP_CERT" >> "$conf"
      options+=(--volume "$PIP_CERT:$PIP_CERT:ro")
    fi
    if [ -n "${PIP_FIND_LINKS:-}" ]; then
      printf 'find-links = %s\n' "$PIP_FIND_LINKS" >> "$conf"
      options+=(--volume "$PIP_FIND_LINKS:$PIP_FIND_LINKS:ro")
    fi
  fi
fi
"$engine" build "${options[@]}" --tag "$image" --file docker/Dockerfile .
echo "==> Built $image with $engine"
