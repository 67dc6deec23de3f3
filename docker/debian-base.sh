#!/usr/bin/env bash
# A base image out of Debian's packages, where no image registry can be reached:
#   BASE_IMAGE=$(docker/debian-base.sh) make image
# Like python:3.11-slim-bookworm as far as docker/Dockerfile asks: python, venv, useradd.
set -euo pipefail
cd "$(dirname "$0")/.."
. docker/engine.sh
base=localhost/python:3.11-slim-bookworm
if ! "$engine" image exists "$base"; then
  work=$(mktemp -d) && trap 'rm -rf "$work"' EXIT
  mmdebstrap --quiet --variant=minbase --mode=root \
    --include=python3,python3-venv,python-is-python3,ca-certificates \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    --customize-hook='rm -rf "$1"/var/lib/apt/lists/* "$1"/var/cache/apt/*' \
    bookworm "$work/base.tar" /etc/apt/sources.list.d/debian.sources >&2
  "$engine" import --quiet --change 'ENV LANG=C.UTF-8' "$work/base.tar" "$base" >&2
fi
echo "$base"
