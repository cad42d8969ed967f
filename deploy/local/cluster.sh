#!/usr/bin/env bash
# A cluster on this machine: three NATS servers (three copies of each log, fsynced), Redis, Cassandra, two nodes of each tier, and
# HAProxy in front of them. Everything is on loopback, with passwords that are made at the first start.
#   cluster.sh up                    installs what is missing, starts all, prints where
#   cluster.sh down                  stops all and deletes their data
#   cluster.sh status                one line for each process; exits 0 only if all are up
#   cluster.sh env                   prints the settings, for `source` or for a single service's script
# Settings (environment): SERVICES_DIR, and CLUSTER_PORT=17000, below which nothing of it listens; CLUSTER_TLS=1 at `up`: the tiers speak
#   TLS to NATS, Redis and Cassandra
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

BASE="${CLUSTER_PORT:-17000}"
DATA="$SERVICES_DIR"
SECRETS="$DATA/secrets.env"
# Where the nodes of each tier listen. The admin port of a node is the one that HAProxy asks whether it is ready.
COMETS=("127.0.0.1:$((BASE + 110)) 127.0.0.1:$((BASE + 111)) $((BASE + 119))" "127.0.0.1:$((BASE + 120)) 127.0.0.1:$((BASE + 121)) $((BASE + 129))")
LOGICS=("127.0.0.1:$((BASE + 210)) $((BASE + 219))" "127.0.0.1:$((BASE + 220)) $((BASE + 229))")

password() { od -An -N16 -tx1 /dev/urandom | tr -d ' \n'; }

make_secrets() {
  [ ! -s "$SECRETS" ] || return 0
  (
    umask 077
    for name in NATS_COMET NATS_LOGIC NATS_JOB NATS_OPERATOR REDIS; do echo "${name}_PASSWORD=$(password)"; done >"$SECRETS.new"
    # Kept here, for it must be the same for every later command.
    echo "SERVICES_TLS=${CLUSTER_TLS:-0}" >>"$SECRETS.new"
  )
  mv "$SECRETS.new" "$SECRETS"
}

fronts() {
  local node websocket=() tcp=() api=()
  for node in "${COMETS[@]}"; do
    read -r ws plain admin <<<"$node"
    websocket+=("$ws/$admin")
    tcp+=("$plain/$admin")
  done
  for node in "${LOGICS[@]}"; do
    read -r http admin <<<"$node"
    api+=("$http/$admin")
  done
  echo "websocket tcp $((BASE + 70)) ${websocket[*]}"
  echo "tcp tcp $((BASE + 71)) ${tcp[*]}"
  echo "api http $((BASE + 80)) ${api[*]}"
}

# settings: the environment of the services' scripts, which must be the same for every later command.
settings() {
  cat "$SECRETS" 2>/dev/null || true
  echo "SERVICES_DIR=$DATA"
  echo "NATS_NODES=3"
  echo "NATS_PORT=$((BASE + 400))"
  echo "NATS_CLUSTER_PORT=$((BASE + 410))"
  echo "NATS_HTTP_PORT=$((BASE + 420))"
  echo "REDIS_PORT=$((BASE + 500))"
  echo "CASSANDRA_PORT=$((BASE + 600))"
  echo "CASSANDRA_STORAGE_PORT=$((BASE + 601))"
  echo "CASSANDRA_JMX_PORT=$((BASE + 602))"
  echo "TIERS_PORT=$BASE"
}

load_settings() {
  local line
  while read -r line; do export "${line?}"; done < <(settings)
  HAPROXY_FRONTS="$(fronts)"
  export HAPROXY_FRONTS
}

SCRIPTS=(nats.sh redis.sh cassandra/cassandra.sh haproxy.sh)

# each COMMAND: runs it for every service at once; fails if one of them does.
each() {
  local script pids=() pid failed=0
  for script in "${SCRIPTS[@]}"; do
    "$HERE/$script" "$1" &
    pids+=($!)
  done
  for pid in "${pids[@]}"; do wait "$pid" || failed=1; done
  return $failed
}

case "${1:-}" in
  up)
    "$HERE/install.sh" nats redis haproxy cassandra
    make_secrets
    load_settings
    each start || die "not all services started; cluster.sh down cleans up"
    "$HERE/tiers.sh" start || die "not all nodes started; cluster.sh down cleans up"
    say "passwords of the tiers: $SECRETS"
    say "in front: WebSocket 127.0.0.1:$((BASE + 70)), TCP 127.0.0.1:$((BASE + 71)), HTTP 127.0.0.1:$((BASE + 80))"
    ;;
  down)
    load_settings
    "$HERE/tiers.sh" wipe
    each wipe
    rm -rf "$SECRETS" "$TLS_DIR"
    ;;
  status)
    load_settings
    failed=0
    each status || failed=1
    "$HERE/tiers.sh" status || failed=1
    exit $failed
    ;;
  env) settings ;;
  *) usage ;;
esac
