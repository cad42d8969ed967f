#!/usr/bin/env bash
# Halley's tiers on this machine, two nodes each: comet-1 comet-2 logic-1 logic-2 job-1 job-2. The services must run.
#   tiers.sh create               creates the cluster if need be, and the keys that all nodes share
#   tiers.sh start [NODE]         creates the cluster if need be, starts all nodes, or one, and waits until they are ready
#   tiers.sh stop|kill [NODE]     SIGTERM (drains) / SIGKILL
#   tiers.sh pause|resume NODE    SIGSTOP / SIGCONT
#   tiers.sh status               one line per node; exits 0 only if every node is ready
#   tiers.sh wipe                 kills; deletes keys, settings and logs
# Settings (environment): TIERS_BIN=./halley  TIERS_PORT=17000  TIERS_DATA=$SERVICES_DIR/tiers, and those of nats.sh,
#   redis.sh and cassandra.sh: where they listen and their passwords; HOST_<NODE, _ for ->=127.0.0.1: where a node listens
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

BIN="${TIERS_BIN:-$ROOT/halley}"
BASE="${TIERS_PORT:-17000}"
DATA="${TIERS_DATA:-$SERVICES_DIR/tiers}"
NODES=(job-1 job-2 logic-1 logic-2 comet-1 comet-2)

# base NODE: its ports begin here. comet: +0 WebSocket, +1 TCP; logic: +0 HTTP API; every node: +9 admin.
base() {
  local i="${1#*-}"
  case "$1" in
    comet-*) echo $((BASE + 100 + 10 * i)) ;;
    logic-*) echo $((BASE + 200 + 10 * i)) ;;
    job-*) echo $((BASE + 300 + 10 * i)) ;;
    *) die "no node $1: ${NODES[*]}" ;;
  esac
}
dir() { echo "$DATA/$1"; }
mark() { echo "--config $(dir "$1")/config.yaml"; }
own_pid() { pid_of "$(dir "$1")/pid" "$(mark "$1")"; }
ready() { curl -fsS -m 2 -o /dev/null "http://$(host "$1"):$(($(base "$1") + 9))/readyz" 2>/dev/null; }
# up NODE: ready, and no other process that has its port.
up() { own_pid "$1" >/dev/null && ready "$1"; }
# One that was just spawned does not have its own command line yet, so only the pid tells that it has died.
up_or_dead() { up "$1" || ! kill -0 "$(cat "$(dir "$1")/pid")" 2>/dev/null; }
each() { if [ -n "${1:-}" ]; then echo "$1"; else printf '%s\n' "${NODES[@]}"; fi; }

redis() {
  local i port="${REDIS_PORT:-16379}" sentinels=""
  if [ "${REDIS_MODE:-single}" = single ]; then
    echo "addresses: [\"$(host redis-1):$port\"]"
    return
  fi
  for i in 1 2 3; do sentinels+="${sentinels:+, }\"$(host "redis-$i"):$((port + i + 1))\""; done
  echo "mode: sentinel, master: halley, addresses: [$sentinels], sentinel_password: \"${REDIS_PASSWORD:-}\""
}

# services TIER: the settings of what the tier talks to, each with the credentials of the tier.
services() {
  local tier="$1" password="${1^^}" i urls=""
  password="NATS_${password}_PASSWORD"
  for ((i = 1; i <= ${NATS_NODES:-3}; i++)); do urls+="${urls:+, }\"nats://$(host "nats-$i"):$((${NATS_PORT:-14222} + i - 1))\""; done
  local nats_tls="" redis_tls="" cassandra_tls=""
  if tls; then
    nats_tls=", ca_file: \"$TLS_DIR/ca.pem\""
    redis_tls=", tls: { enabled: true, ca_file: \"$TLS_DIR/ca.pem\" }"
    cassandra_tls=", tls: true, ca_file: \"$TLS_DIR/ca.pem\""
  fi
  cat <<YAML
nats: { urls: [$urls], user: $tier, password: "${!password:-$tier}"$nats_tls }
redis: { $(redis), password: "${REDIS_PASSWORD:-}"$redis_tls }
cassandra: { hosts: ["$(host cassandra-1):${CASSANDRA_PORT:-19042}"], replicas: 1, consistency: QUORUM$cassandra_tls }
logs: { partitions: 16, replicas: 3, max_bytes: 268435456 }
auth: { keys_file: "$DATA/token-keys", api_keys_file: "$DATA/api-keys.json" }
log: { format: text }
YAML
}

write_config() {
  local b at d="$(dir "$1")" tier="${1%-*}"
  b="$(base "$1")"
  at="$(host "$1")"
  mkdir -p "$d"
  (
    umask 077
    {
      services "$tier"
      echo "admin: { address: \"$at:$((b + 9))\" }"
      case "$tier" in
        comet) echo "comet: { websocket_address: \"$at:$b\", tcp_address: \"$at:$((b + 1))\", drain_notice_ms: 1500, drain_spread_ms: 3000 }" ;;
        logic) echo "api: { address: \"$at:$b\" }" ;;
      esac
    } >"$d/config.yaml"
  )
}

# create: keys that all nodes share, logs and schema. What is there already is left alone.
create() {
  mkdir -p "$DATA"
  [ -s "$DATA/token-keys" ] || (
    umask 077
    echo "local $(head -c 32 /dev/urandom | base64 | tr '+/' '-_' | tr -d '=\n')" >"$DATA/token-keys.new"
    mv "$DATA/token-keys.new" "$DATA/token-keys"
  )
  (umask 077 && services operator >"$DATA/operator.yaml")
  # A NATS cluster that has just started may still be electing the leaders of its streams.
  wait_for 60 "$BIN" cluster create --config "$DATA/operator.yaml" || die "the cluster cannot be created"
}

start() {
  local n t0
  t0="$(now_ms)"
  [ -x "$BIN" ] || die "$BIN is missing: make build"
  [ -n "${1:-}" ] || create
  for n in $(each "${1:-}"); do
    own_pid "$n" >/dev/null && continue
    write_config "$n"
    spawn "$(dir "$n")/pid" "$(dir "$n")/halley.log" \
      "$BIN" "${n%-*}" --config "$(dir "$n")/config.yaml"
  done
  for n in $(each "${1:-}"); do
    wait_for 60 up_or_dead "$n" && up "$n" || {
      tail -n 20 "$(dir "$n")/halley.log" >&2
      die "$n is not ready"
    }
    say "$n up: ports from $(base "$n"), admin $(host "$n"):$(($(base "$n") + 9)), pid=$(own_pid "$n")"
  done
  say "started in $(($(now_ms) - t0)) ms"
}

status() {
  local n pid up=0
  for n in "${NODES[@]}"; do
    if pid="$(own_pid "$n")" && ready "$n"; then
      up=$((up + 1))
      say "$n up: pid=$pid rss=$(rss_mb "$pid")MB"
    else
      say "$n down"
    fi
  done
  [ "$up" = "${#NODES[@]}" ]
}

signal_all() {
  local n sig="$1"
  for n in $(each "${2:-}"); do stop_pid "$(dir "$n")/pid" "$(mark "$n")" "$sig" 60 & done
  wait
}

case "${1:-}" in
  create) create ;;
  start) start "${2:-}" ;;
  # From the outside in: who takes requests goes before who answers them.
  stop)
    if [ -n "${2:-}" ]; then signal_all TERM "$2"; else
      for tier in comet logic job; do for i in 1 2; do signal_all TERM "$tier-$i" & done; wait; done
    fi
    say stopped
    ;;
  kill) signal_all KILL "${2:-}" && say killed ;;
  pause) kill -STOP "$(own_pid "${2:?node}")" ;;
  resume) kill -CONT "$(own_pid "${2:?node}")" ;;
  status) status ;;
  wipe)
    signal_all KILL
    rm -rf "$DATA"
    say wiped
    ;;
  *) usage ;;
esac
