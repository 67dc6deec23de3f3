#!/bin/sh
# Packed images in, two per byte; little-endian float32 out.
url=${DIAGONALFLIP_URL:-http://127.0.0.1:8080}/predictions/diagonal_flip
printf '\266\300' |
  curl --silent --show-error --fail "$url" --data-binary @- \
    --header 'Content-Type: application/octet-stream; padding=4' |
  od -A n -t f4
