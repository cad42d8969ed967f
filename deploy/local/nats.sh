#!/usr/bin/env bash
# A real NATS cluster with JetStream, of the release that Halley embeds.
#   nats.sh fetch                 builds nats-server into the cache
#   nats.sh start [N]             starts all nodes, or node N, and waits until JetStream is ready
#   nats.sh stop|kill [N]         SIGTERM / SIGKILL
#   nats.sh pause|resume N        SIGSTOP / SIGCONT
#   nats.sh status                one line per node; exits 0 only if every node is healthy
#   nats.sh wipe [N]              stops; deletes all data, or that of node N: the loss of a disk
# Settings (environment), the same for start and for what follows:
#   NATS_NODES=3  NATS_PORT=14222 (node N has +N-1)  NATS_CLUSTER_PORT=16222  NATS_HTTP_PORT=18222
#   NATS_SYNC_INTERVAL=always  NATS_DATA=$SERVICES_DIR/nats
#   HOST_nats_N=127.0.0.1: where node N listens
#   SERVICES_TLS=1: clients must speak TLS
#   NATS_COMET_PASSWORD  NATS_LOGIC_PASSWORD  NATS_JOB_PASSWORD  NATS_OPERATOR_PASSWORD (default: the user's name)
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

NODES="${NATS_NODES:-3}"
PORT="${NATS_PORT:-14222}"
CLUSTER_PORT="${NATS_CLUSTER_PORT:-16222}"
HTTP_PORT="${NATS_HTTP_PORT:-18222}"
# An acknowledged block is on disk. The server's own default, two minutes, loses acknowledged messages in a power cut.
SYNC_INTERVAL="${NATS_SYNC_INTERVAL:-always}"
DATA="${NATS_DATA:-$SERVICES_DIR/nats}"

dir() { echo "$DATA/n$1"; }
mark() { echo "-c $(dir "$1")/nats.conf"; }
own_pid() { pid_of "$(dir "$1")/pid" "$(mark "$1")"; }
fetch() {
  local version
  version="$(module_version github.com/nats-io/nats-server/v2)" || exit 1
  go_tool nats-server "github.com/nats-io/nats-server/v2@$version"
}

write_conf() {
  local n="$1" i d routes=""
  d="$(dir "$n")"
  mkdir -p "$d"
  for ((i = 1; i <= NODES; i++)); do routes+="${routes:+, }\"nats://$(host "nats-$i"):$((CLUSTER_PORT + i - 1))\""; done
  (umask 077 && cat >"$d/nats.conf") <<CONF
server_name: n$n
listen: $(host "nats-$n"):$((PORT + n - 1))
http: $(host "nats-$n"):$((HTTP_PORT + n - 1))
max_payload: 1MB
jetstream { store_dir: "$d/js", sync_interval: "$SYNC_INTERVAL", max_mem: 256MB, max_file: 8GB }
include "users.conf"
CONF
  if tls; then
    make_certificates
    echo "tls { cert_file: \"$TLS_DIR/server.pem\", key_file: \"$TLS_DIR/server.key\" }" >>"$d/nats.conf"
  fi
  [ "$NODES" -le 1 ] ||
    echo "cluster { name: halley, listen: $(host "nats-$n"):$((CLUSTER_PORT + n - 1)), routes: [ $routes ] }" >>"$d/nats.conf"
  (
    umask 077
    sed -e "s|@COMET_PASSWORD@|${NATS_COMET_PASSWORD:-comet}|" -e "s|@LOGIC_PASSWORD@|${NATS_LOGIC_PASSWORD:-logic}|" \
      -e "s|@JOB_PASSWORD@|${NATS_JOB_PASSWORD:-job}|" -e "s|@OPERATOR_PASSWORD@|${NATS_OPERATOR_PASSWORD:-operator}|" \
      "$HERE/nats-users.conf" >"$d/users.conf"
  )
}

# healthz answers 200 only once JetStream is up and, in a cluster, its meta group has a leader.
healthy() {
  [ "$(curl -s -m 2 -o /dev/null -w '%{http_code}' "http://$(host "nats-$1"):$((HTTP_PORT + $1 - 1))/healthz" 2>/dev/null)" = 200 ]
}
each() { if [ -n "${1:-}" ]; then echo "$1"; else seq 1 "$NODES"; fi; }

start() {
  local bin n t0
  bin="$(fetch)"
  t0="$(now_ms)"
  for n in $(each "${1:-}"); do
    own_pid "$n" >/dev/null && continue
    ! port_open "$(host "nats-$n")" $((PORT + n - 1)) || die "port $((PORT + n - 1)) is taken by another process"
    write_conf "$n"
    spawn "$(dir "$n")/pid" "$(dir "$n")/nats.log" "$bin" -c "$(dir "$n")/nats.conf"
  done
  for n in $(each "${1:-}"); do
    wait_for 60 healthy "$n" || {
      tail -n 20 "$(dir "$n")/nats.log" >&2
      die "node $n is not healthy"
    }
    say "node $n up: $(host "nats-$n"):$((PORT + n - 1)) sync_interval=$SYNC_INTERVAL pid=$(own_pid "$n")"
  done
  say "started in $(($(now_ms) - t0)) ms"
}

status() {
  local n pid up=0
  for n in $(each); do
    if pid="$(own_pid "$n")" && healthy "$n"; then
      up=$((up + 1))
      say "node $n up: $(host "nats-$n"):$((PORT + n - 1)) pid=$pid rss=$(rss_mb "$pid")MB"
    else
      say "node $n down"
    fi
  done
  [ "$up" = "$NODES" ]
}

signal_all() {
  local n sig="$1"
  for n in $(each "${2:-}"); do stop_pid "$(dir "$n")/pid" "$(mark "$n")" "$sig" 20 & done
  wait
}

case "${1:-}" in
  fetch) fetch ;;
  start) start "${2:-}" ;;
  stop) signal_all TERM "${2:-}" && say stopped ;;
  kill) signal_all KILL "${2:-}" && say killed ;;
  pause) kill -STOP "$(own_pid "${2:?node}")" ;;
  resume) kill -CONT "$(own_pid "${2:?node}")" ;;
  status) status ;;
  wipe)
    signal_all KILL "${2:-}"
    if [ -n "${2:-}" ]; then rm -rf "$(dir "$2")"; else rm -rf "$DATA"; fi
    say wiped
    ;;
  *) usage ;;
esac
