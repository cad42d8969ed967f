# shellcheck shell=bash
# What the service scripts share; sourced, never run.
#
# Two folders hold everything: data in SERVICES_DIR, which `wipe` deletes, and programs and downloads in
# SERVICES_CACHE, which it leaves alone. Parallel runs take a SERVICES_DIR and ports of their own; the cache
# may be shared.
HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
ROOT="$(cd "$HERE/../.." && pwd)"
SERVICES_DIR="${SERVICES_DIR:-${TMPDIR:-/tmp}/halley-services}"
SERVICES_CACHE="${SERVICES_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/halley-services}"
mkdir -p "$SERVICES_DIR" "$SERVICES_CACHE"
# Data folders hold credentials.
chmod 700 "$SERVICES_DIR"
# Absolute from here on: servers are started with these paths and found again by them.
SERVICES_DIR="$(cd "$SERVICES_DIR" && pwd)"
SERVICES_CACHE="$(cd "$SERVICES_CACHE" && pwd)"

# With SERVICES_TLS=1 NATS, Redis and Cassandra speak nothing but TLS to clients. The authority that vouches for them is made for
# this SERVICES_DIR: clients trust $TLS_DIR/ca.pem.
TLS_DIR="$SERVICES_DIR/tls"
tls() { [ "${SERVICES_TLS:-}" = 1 ]; }

# make_certificates: one certificate for all services, in PEM and, for Java, in PKCS 12, for loopback and every address of a HOST_
# setting as of the first start. The authority's key is not kept.
make_certificates() {
  local setting names="DNS:localhost,IP:127.0.0.1,IP:127.0.0.2,IP:127.0.0.3"
  for setting in "${!HOST_@}"; do names+=",IP:${!setting}"; done
  (
    flock 9
    [ ! -s "$TLS_DIR/server.p12" ] || exit 0
    command -v openssl >/dev/null || die "no openssl"
    umask 077
    mkdir -p "$TLS_DIR"
    cd "$TLS_DIR"
    {
      openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -subj "/CN=Halley local authority" \
        -keyout ca.key -out ca.pem
      openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=Halley local services" -keyout server.key -out server.csr
      echo "subjectAltName=$names" >server.ext
      openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -set_serial 1 -days 3650 -extfile server.ext -out server.pem
      openssl pkcs12 -export -in server.pem -inkey server.key -certfile ca.pem -passout pass:halley -out server.p12.new
    } >openssl.log 2>&1 || die "no certificates: $TLS_DIR/openssl.log"
    rm -f ca.key server.csr server.ext
    mv server.p12.new server.p12
  ) 9>"$SERVICES_DIR/.tls.lock"
}

# host NAME [ELSE]: the address on which a server or node listens: HOST_<NAME>, with _ for -, else ELSE, else loopback. A NAME is
# nats-N, redis-N, cassandra-N, or a node of tiers.sh.
host() {
  local setting="HOST_${1//-/_}"
  echo "${!setting:-${2:-127.0.0.1}}"
}

now_ms() { date +%s%3N; }
say() { printf '%s: %s\n' "$(basename "$0" .sh)" "$*"; }
die() {
  say "$*" >&2
  exit 1
}

# usage: prints the comment at the head of the running script and exits with 2.
usage() {
  sed -n '2,/^[^#]/{/^#/s/^# \{0,1\}//p}' "$0"
  exit 2
}

# pid_of FILE MARK: prints the pid in FILE if that process lives and MARK stands in its command line. Without the mark a
# pid that the kernel has given to somebody else would be signalled.
pid_of() {
  local pid
  pid="$(cat "$1" 2>/dev/null)" || return 1
  [ -n "$pid" ] && [ -r "/proc/$pid/cmdline" ] || return 1
  tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" | grep -qF -- "$2" || return 1
  echo "$pid"
}

# stop_pid FILE MARK [SIGNAL [SECONDS]]: signals, waits, and kills what is still there after SECONDS.
stop_pid() {
  local pid i
  pid="$(pid_of "$1" "$2")" || {
    rm -f "$1"
    return 0
  }
  kill "-${3:-TERM}" "$pid" 2>/dev/null || true
  for ((i = 0; i < ${4:-30} * 20; i++)); do
    kill -0 "$pid" 2>/dev/null || {
      rm -f "$1"
      return 0
    }
    sleep 0.05
  done
  kill -KILL "$pid" 2>/dev/null || true
  rm -f "$1"
}

# spawn PIDFILE LOG COMMAND...: starts a process in a session of its own, so that the caller's Ctrl-C does not reach it,
# with none of the caller's descriptors, so that nobody waits for it to close a pipe or a lock. The command must not
# fork into the background itself. SERVICES_TIMER_SLACK_NS is how much later than asked the kernel may end its sleeps, so
# that they end together; empty is the kernel's default.
spawn() {
  local pidfile="$1" log="$2"
  shift 2
  (
    [ -z "${SERVICES_TIMER_SLACK_NS:-}" ] || echo "$SERVICES_TIMER_SLACK_NS" >/proc/self/timerslack_ns || true # It saves work, and nothing else.
    exec setsid "$@"
  ) </dev/null >>"$log" 2>&1 9>&- &
  echo $! >"$pidfile"
}

# port_open HOST PORT
port_open() { (exec 3<>"/dev/tcp/$1/$2") 2>/dev/null; }

# wait_for SECONDS COMMAND...: until COMMAND succeeds; fails when the time is over.
wait_for() {
  local end=$(($(now_ms) + $1 * 1000))
  shift
  until "$@"; do
    [ "$(now_ms)" -lt "$end" ] || return 1
    sleep 0.1
  done
}

# rss_mb PID
rss_mb() { awk '/^VmRSS/ {v = int($2 / 1024)} END {print v + 0}' "/proc/$1/status" 2>/dev/null || echo 0; }

# cpu_ms PID: CPU time used so far. It says what something costs however busy the machine is.
cpu_ms() { awk '{sub(/^.*\) /, ""); print ($12 + $13) * 10}' "/proc/$1/stat" 2>/dev/null || echo 0; }

# module_version MODULE: the version that go.mod pins, so that a server beside Halley is the release that Halley embeds.
module_version() {
  awk -v m="$1" '$1 == m {print $2; found = 1} END {exit !found}' "$ROOT/go.mod" || die "go.mod does not name $1"
}

# go_tool NAME PACKAGE@VERSION [BUILD FLAGS...]: builds a Go program into the cache, once, under a name that carries its
# version, and prints its path. Exact versions only.
go_tool() {
  local name="$1" package="$2" out
  shift 2
  out="$SERVICES_CACHE/bin/$name-${package##*@}"
  if [ ! -x "$out" ]; then
    mkdir -p "$SERVICES_CACHE/bin"
    (
      flock 9
      [ ! -x "$out" ] || exit 0
      tmp="$(mktemp -d "$SERVICES_CACHE/bin/tmp.XXXXXX")"
      trap 'rm -rf "$tmp"' EXIT
      cd "$tmp" || exit
      GOFLAGS='' GOWORK=off CGO_ENABLED=0 GOBIN="$tmp/out" go install -trimpath -ldflags '-s -w' "$@" "$package" >&2
      mv "$tmp"/out/* "$out"
    ) 9>"$SERVICES_CACHE/bin/.$name.lock" || die "cannot build $package"
  fi
  echo "$out"
}
