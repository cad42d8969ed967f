#!/usr/bin/env bash
# A real Redis, for presence, append-only file on: one server, or a primary, its replica and the three sentinels that watch them.
#   redis.sh start|stop|kill [NAME]  SIGTERM / SIGKILL; NAME is redis-1 redis-2 sentinel-1 sentinel-2 sentinel-3, or all of the mode's
#   redis.sh pause|resume [NAME]     SIGSTOP / SIGCONT; redis-1
#   redis.sh primary                 the NAME of the server that the sentinels call the primary
#   redis.sh flush                   deletes all keys: presence must repair itself
#   redis.sh status                  one line for each process; exits 0 only if all are up
#   redis.sh wipe                    kills; deletes all data
# Settings (environment): REDIS_MODE=single|sentinel  REDIS_PORT=16379 (redis-N has +N-1, sentinel-N +N+1)
#   REDIS_MAXMEMORY=256mb (a connected device takes some 250 bytes)
#   REDIS_PASSWORD=halley-local  REDIS_DATA=$SERVICES_DIR/redis  HOST_redis_N=127.0.0.1: where redis-N and sentinel-N listen
#   An empty REDIS_PASSWORD is no password. The sentinels have the same, and call what they watch halley.
#   SERVICES_TLS=1: only TLS is spoken; single only
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

MODE="${REDIS_MODE:-single}"
# Ten thousand above the usual one, as in every script here: a Redis of the developer's own is left alone.
PORT="${REDIS_PORT:-16379}"
PASSWORD="${REDIS_PASSWORD-halley-local}"
DATA="${REDIS_DATA:-$SERVICES_DIR/redis}"
case "$MODE" in
  single) NAMES=(redis-1) ;;
  sentinel)
    ! tls || die "TLS is for REDIS_MODE=single only"
    NAMES=(redis-1 redis-2 sentinel-1 sentinel-2 sentinel-3)
    ;;
  *) die "REDIS_MODE must be single or sentinel" ;;
esac

at() { host "redis-${1#*-}"; }
port() {
  case "$1" in
    redis-[12]) echo $((PORT + ${1#*-} - 1)) ;;
    sentinel-[123]) echo $((PORT + ${1#*-} + 1)) ;;
    *) die "no process $1: ${NAMES[*]}" ;;
  esac
}
dir() { echo "$DATA/$1"; }
# The server rewrites its command line to this.
mark() { echo "$(at "$1"):$(port "$1")"; }
own_pid() { pid_of "$(dir "$1")/pid" "$(mark "$1")"; }
TLS_FLAGS=()
! tls || TLS_FLAGS=(--tls --cacert "$TLS_DIR/ca.pem")
cli() {
  local name="$1"
  shift
  env ${PASSWORD:+"REDISCLI_AUTH=$PASSWORD"} timeout 5 redis-cli "${TLS_FLAGS[@]}" -h "$(at "$name")" -p "$(port "$name")" "$@" 2>/dev/null
}
up() { [ "$(cli "$1" ping)" = PONG ]; }
each() { if [ -n "${1:-}" ]; then echo "$1"; else printf '%s\n' "${NAMES[@]}"; fi; }

# listen NAME: where it listens, and how.
listen() {
  if tls; then
    printf '%s\n' "port 0" "tls-port $(port "$1")" "tls-cert-file \"$TLS_DIR/server.pem\"" "tls-key-file \"$TLS_DIR/server.key\"" \
      "tls-ca-cert-file \"$TLS_DIR/ca.pem\"" "tls-auth-clients no"
  else
    echo "port $(port "$1")"
  fi
}

# noeviction: a presence entry that is evicted is a user who is offline for no reason.
server_conf() {
  cat <<CONF
${PASSWORD:+masterauth "$PASSWORD"}
appendonly yes
appendfsync everysec
save ""
maxmemory ${REDIS_MAXMEMORY:-256mb}
maxmemory-policy noeviction
repl-diskless-sync-delay 0
CONF
  [ "$1" != redis-2 ] || echo "replicaof $(at redis-1) $(port redis-1)"
}

sentinel_conf() {
  cat <<CONF
sentinel monitor halley $(at redis-1) $(port redis-1) 2
sentinel down-after-milliseconds halley 2000
sentinel failover-timeout halley 6000
${PASSWORD:+sentinel auth-pass halley "$PASSWORD"}
${PASSWORD:+sentinel sentinel-pass "$PASSWORD"}
CONF
}

# write_conf writes it once: from then on it is the server's own, which writes down there who is whose replica.
write_conf() {
  local d
  d="$(dir "$1")"
  mkdir -p "$d"
  [ ! -s "$d/redis.conf" ] || return 0
  ! tls || make_certificates
  (
    umask 077
    {
      listen "$1"
      printf '%s\n' "bind $(at "$1")" "dir \"$d\"" ${PASSWORD:+"requirepass \"$PASSWORD\""}
      case "$1" in redis-*) server_conf "$1" ;; *) sentinel_conf ;; esac
    } >"$d/redis.conf.new"
    mv "$d/redis.conf.new" "$d/redis.conf"
  )
}

launch() {
  local as=()
  ! own_pid "$1" >/dev/null || return 0
  ! port_open "$(at "$1")" "$(port "$1")" || die "port $(port "$1") is taken by another process"
  write_conf "$1"
  case "$1" in sentinel-*) as=(--sentinel) ;; esac
  spawn "$(dir "$1")/pid" "$(dir "$1")/redis.log" redis-server "$(dir "$1")/redis.conf" "${as[@]}"
}

# watched: the sentinels know each other and the replica, so that a failover is possible.
watched() {
  cli sentinel-1 sentinel ckquorum halley | grep -q '^OK 3' && cli sentinel-1 sentinel master halley | paste - - | grep -Eq 'num-slaves\s[1-9]'
}

start() {
  local name
  command -v redis-server >/dev/null || die "no redis-server: run $HERE/install.sh redis"
  for name in $(each "${1:-}"); do launch "$name"; done
  for name in $(each "${1:-}"); do
    wait_for 30 up "$name" || {
      tail -n 20 "$(dir "$name")/redis.log" >&2
      die "$name did not start"
    }
    say "$name up: $(mark "$name") $(redis-server --version | sed 's/.*v=\([0-9.]*\).*/version=\1/') pid=$(own_pid "$name")"
  done
  [ "$MODE" = single ] || [ -n "${1:-}" ] || wait_for 30 watched || die "the sentinels do not agree"
}

primary() {
  local i found
  [ "$MODE" = sentinel ] || {
    echo redis-1
    return
  }
  for i in 1 2 3; do
    found="$(cli "sentinel-$i" sentinel get-master-addr-by-name halley | paste -sd: -)"
    case "$found" in
      "$(mark redis-1)") echo redis-1 && return ;;
      "$(mark redis-2)") echo redis-2 && return ;;
    esac
  done
  die "no sentinel knows the primary"
}

signal_all() {
  local name
  for name in $(each "${2:-}"); do stop_pid "$(dir "$name")/pid" "$(mark "$name")" "$1" 15 & done
  wait
}

status() {
  local name pid failed=0
  for name in "${NAMES[@]}"; do
    if pid="$(own_pid "$name")" && up "$name"; then
      say "$name up: $(mark "$name") pid=$pid rss=$(rss_mb "$pid")MB"
    else
      say "$name down"
      failed=1
    fi
  done
  return $failed
}

case "${1:-}" in
  start) start "${2:-}" ;;
  stop) signal_all TERM "${2:-}" && say stopped ;;
  kill) signal_all KILL "${2:-}" && say killed ;;
  pause) kill -STOP "$(own_pid "${2:-redis-1}")" ;;
  resume) kill -CONT "$(own_pid "${2:-redis-1}")" ;;
  primary) primary ;;
  flush) cli "$(primary)" flushall >/dev/null && say flushed ;;
  status) status ;;
  wipe)
    signal_all KILL
    rm -rf "$DATA"
    say wiped
    ;;
  *) usage ;;
esac
