#!/usr/bin/env bash
# Installs what a bare Debian or Ubuntu machine lacks to run the services; safe to repeat.
#   install.sh [redis] [nats] [haproxy] [python] [chromium] [cassandra]      with no argument: all of them
#   install.sh vm                 what deploy/vm/vm.sh runs; only when named
#   install.sh [mosquitto] [ejabberd]      what `make bench-peers` measures; only when named
# Packages need root. What is compiled or downloaded goes to SERVICES_CACHE, once.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# The peer that drives the protocol from outside, in docs/examples.
PYTHON_PACKAGES=(websockets==17.4)

# apt PACKAGE...: installs what is missing. A server that the package would start at once is kept from starting: the
# scripts run their own, on ports of their own.
apt() {
  local p missing=()
  for p in "$@"; do dpkg -s "$p" 2>/dev/null | grep -q '^Status: install ok' || missing+=("$p"); done
  [ ${#missing[@]} -gt 0 ] || return 0
  command -v apt-get >/dev/null || die "this is not Debian: install ${missing[*]} by your own means"
  [ "$(id -u)" = 0 ] || die "run as root: apt-get install ${missing[*]}"
  apt-get -qq -o DPkg::Lock::Timeout=600 update
  DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get -qq -y -o DPkg::Lock::Timeout=600 --no-install-recommends \
    install "${missing[@]}" >/dev/null
}

install_python() {
  python3 -c 'import venv, ensurepip' 2>/dev/null || apt python3-venv
  [ -x "$SERVICES_CACHE/venv/bin/pip" ] || python3 -m venv "$SERVICES_CACHE/venv"
  "$SERVICES_CACHE/venv/bin/pip" install -q --disable-pip-version-check "${PYTHON_PACKAGES[@]}"
}

[ $# -gt 0 ] || set -- redis nats haproxy python chromium cassandra
for what in "$@"; do
  case "$what" in
    redis) command -v redis-server >/dev/null || apt redis-server ;;
    haproxy) command -v haproxy >/dev/null || apt haproxy ;;
    nats) "$HERE/nats.sh" fetch >/dev/null ;;
    python) install_python ;;
    chromium) command -v chromium >/dev/null || apt chromium ;;
    mosquitto | ejabberd) apt "$what" ;;
    vm) apt qemu-system-x86 busybox-static cpio kmod e2fsprogs ;;
    cassandra)
      command -v mvn >/dev/null || apt maven openjdk-17-jdk-headless
      "$HERE/cassandra/cassandra.sh" fetch
      ;;
    *) usage ;;
  esac
  say "$what ready"
done
