#!/usr/bin/env bash
# An arm64 Debian and our packages for it, 5 GB below .portability, for qemu-aarch64.
# Nothing is installed: no script of a package runs, so it takes neither root nor binfmt_misc.
set -euo pipefail
cd "$(dirname "$0")/../.."
for tool in qemu-aarch64 mmdebstrap; do
  command -v "$tool" > /dev/null || { echo "Needs $tool (apt-get install qemu-user mmdebstrap)" >&2; exit 1; }
done
folder=.portability
rm -rf "$folder/root" "$folder/packages"
mkdir -p "$folder/root"
mmdebstrap --quiet --mode=chrootless --variant=extract --arch=arm64 \
  --include=python3,libstdc++6 bookworm - | tar --extract --directory "$folder/root" --exclude ./dev
# qemu shows the host's /proc/cpuinfo, in which the library cpuinfo of torch and ONNX Runtime
# finds no ARM and dereferences a null pointer. A file in the root hides the host's.
mkdir -p "$folder/root/proc"
cat > "$folder/root/proc/cpuinfo" << 'END'
processor	: 0
Features	: fp asimd aes pmull sha1 sha2 crc32 atomics fphp asimdhp asimdrdm lrcpc dcpop asimddp
CPU implementer	: 0x41
CPU architecture: 8
CPU variant	: 0x3
CPU part	: 0xd0c
CPU revision	: 1
END
# uv rather than pip: pip would apply the lock's markers to this host.
for requirements in serve torch; do
  .venv/bin/uv pip install --quiet --cache-dir "$folder/cache" --target "$folder/packages" \
    --python-platform aarch64-manylinux_2_34 --python-version 3.11 --only-binary :all: \
    --requirements "requirements/$requirements.txt"
done
