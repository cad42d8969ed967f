#!/usr/bin/env bash
# A real Redis on loopback, for presence: one server, append-only file on.
#   redis.sh start|stop|status|wipe
#   redis.sh kill|pause|resume       SIGKILL / SIGSTOP / SIGCONT
#   redis.sh flush                   deletes all keys: presence must repair itself
# Settings (environment): REDIS_PORT=16379  REDIS_PASSWORD=halley-local  REDIS_DATA=$SERVICES_DIR/redis
#   An empty REDIS_PASSWORD is no password. SERVICES_TLS=1: only TLS is spoken.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# Ten thousand above the usual one, as in every script here: a Redis of the developer's own is left alone.
PORT="${REDIS_PORT:-16379}"
PASSWORD="${REDIS_PASSWORD-halley-local}"
DATA="${REDIS_DATA:-$SERVICES_DIR/redis}"
# The server rewrites its command line to this.
MARK="redis-server 127.0.0.1:$PORT"

TLS_FLAGS=()
! tls || TLS_FLAGS=(--tls --cacert "$TLS_DIR/ca.pem")

cli() { env ${PASSWORD:+"REDISCLI_AUTH=$PASSWORD"} timeout 5 redis-cli "${TLS_FLAGS[@]}" -p "$PORT" "$@" 2>/dev/null; }
up() { [ "$(cli ping)" = PONG ]; }
own_pid() { pid_of "$DATA/pid" "$MARK"; }

write_conf() {
  local listen="port $PORT"
  mkdir -p "$DATA"
  if tls; then
    make_certificates
    listen="port 0
tls-port $PORT
tls-cert-file \"$TLS_DIR/server.pem\"
tls-key-file \"$TLS_DIR/server.key\"
tls-ca-cert-file \"$TLS_DIR/ca.pem\"
tls-auth-clients no"
  fi
  # noeviction: a presence entry that is evicted is a user who is offline for no reason.
  (umask 077 && cat >"$DATA/redis.conf") <<CONF
$listen
bind 127.0.0.1
dir "$DATA"
${PASSWORD:+requirepass "$PASSWORD"}
appendonly yes
appendfsync everysec
save ""
maxmemory 256mb
maxmemory-policy noeviction
CONF
}

case "${1:-}" in
  start)
    command -v redis-server >/dev/null || die "no redis-server: run $HERE/install.sh redis"
    if ! own_pid >/dev/null; then
      ! port_open 127.0.0.1 "$PORT" || die "port $PORT is taken by another process"
      write_conf
      spawn "$DATA/pid" "$DATA/redis.log" redis-server "$DATA/redis.conf"
    fi
    wait_for 30 up || {
      tail -n 20 "$DATA/redis.log" >&2
      die "did not start"
    }
    say "up: 127.0.0.1:$PORT $(redis-server --version | sed 's/.*v=\([0-9.]*\).*/version=\1/') pid=$(own_pid)"
    ;;
  stop) stop_pid "$DATA/pid" "$MARK" TERM 15 && say stopped ;;
  kill) stop_pid "$DATA/pid" "$MARK" KILL && say killed ;;
  pause) kill -STOP "$(own_pid)" ;;
  resume) kill -CONT "$(own_pid)" ;;
  flush) cli flushall >/dev/null && say flushed ;;
  status)
    if pid="$(own_pid)" && up; then
      say "up: 127.0.0.1:$PORT pid=$pid rss=$(rss_mb "$pid")MB"
    else
      say down
      exit 1
    fi
    ;;
  wipe)
    stop_pid "$DATA/pid" "$MARK" KILL
    rm -rf "$DATA"
    say wiped
    ;;
  *) usage ;;
esac
