# Sourced: chooses docker, podman or buildah for what follows, and lets podman run as a plain root.
engine=${ENGINE:-}
for each in docker podman buildah; do
  # A docker client without its engine is of no use.
  if [ -z "$engine" ] && "$each" info > /dev/null 2>&1; then engine=$each; fi
done
if [ -z "$engine" ]; then
  echo "No docker, podman or buildah here: install one (Debian:" \
    "apt-get install podman runc netavark aardvark-dns catatonit iptables)" >&2
  exit 1
fi
if [ "$engine" != docker ] && [ -z "${CONTAINERS_CONF:-}" ] && [ "$(id -u)" = 0 ]; then
  # Without CAP_SYS_RESOURCE podman may not raise limits, as it tries to; nor is there a systemd
  # to keep groups of processes where this is itself a container.
  files=$(ulimit -Hn) processes=$(ulimit -Hu) most=$(cat /proc/sys/kernel/pid_max)
  [ "$files" = unlimited ] && files=1048576
  { [ "$processes" = unlimited ] || [ "$processes" -gt "$most" ]; } && processes=$most
  export CONTAINERS_CONF=${TMPDIR:-/tmp}/diagonalflip-containers.conf
  cat > "$CONTAINERS_CONF" <<CONF
[containers]
default_ulimits = ["nofile=$files:$files", "nproc=$processes:$processes"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
[network]
network_backend = "netavark"
CONF
fi
