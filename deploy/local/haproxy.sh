#!/usr/bin/env bash
# HAProxy in front of the tiers, on loopback.
#   haproxy.sh start|stop|status|wipe
#   haproxy.sh reload                takes new settings without closing a connection
#   haproxy.sh servers               what it thinks of each node
# Settings (environment), the same for start and for what follows:
#   HAPROXY_DATA=$SERVICES_DIR/haproxy
#   HAPROXY_FRONTS: one line for each port, "NAME MODE PORT NODE...", where MODE is tcp or http and NODE is
#                   HOST:PORT/ADMINPORT, for example
#                   "tcp tcp 17000 127.0.0.1:7101/7103 127.0.0.1:7201/7203"
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

DATA="${HAPROXY_DATA:-$SERVICES_DIR/haproxy}"
CONF="$DATA/haproxy.cfg"
MARK="-W -f $CONF"
own_pid() { pid_of "$DATA/pid" "$MARK"; }
fronts() { [ -n "${HAPROXY_FRONTS:-}" ] || die "HAPROXY_FRONTS is empty"; printf '%s\n' "$HAPROXY_FRONTS" | grep -v '^ *$'; }

front() {
  local name="$1" mode="$2" port="$3" n=0 node address
  shift 3
  printf 'frontend %s\n  mode %s\n  bind 127.0.0.1:%s\n  default_backend %s\n' "$name" "$mode" "$port" "$name"
  # Connections live long: round robin would leave a node that comes back empty.
  printf 'backend %s\n  mode %s\n  balance leastconn\n  option httpchk GET /readyz\n' "$name" "$mode"
  for node in "$@"; do
    n=$((n + 1))
    address="${node%/*}"
    printf '  server n%s %s addr %s port %s\n' "$n" "$address" "${address%:*}" "${node##*/}"
  done
  echo
}

write_conf() {
  local line
  mkdir -p "$DATA"
  sed "s|@DATA@|$DATA|" "$HERE/haproxy.cfg.in" >"$CONF.new"
  while read -r -a line; do front "${line[@]}" >>"$CONF.new"; done < <(fronts)
  haproxy -c -q -f "$CONF.new" || die "the configuration does not hold: $CONF.new"
  mv "$CONF.new" "$CONF"
}

# Every port that the running configuration binds answers.
up() {
  local port
  own_pid >/dev/null || return 1
  while read -r port; do
    port_open 127.0.0.1 "$port" || return 1
  done < <(sed -n 's/^ *bind 127\.0\.0\.1:\([0-9]*\)$/\1/p' "$CONF")
}

# The master starts a new worker and leaves the old one its connections, so there may be several.
newest_worker() {
  local master
  master="$(own_pid)" && pgrep -n -P "$master"
}
reloaded() { [ "$(newest_worker)" != "$1" ] && up; }

case "${1:-}" in
  start)
    command -v haproxy >/dev/null || die "no haproxy: run $HERE/install.sh haproxy"
    if ! own_pid >/dev/null; then
      write_conf
      # -W: a master that keeps this pid over reloads.
      spawn "$DATA/pid" "$DATA/haproxy.log" haproxy -W -f "$CONF"
    fi
    wait_for 20 up || {
      tail -n 20 "$DATA/haproxy.log" >&2
      die "did not start"
    }
    say "up: pid=$(own_pid) $(haproxy -v | sed -n '1s/.*version \([0-9.]*\).*/version=\1/p')"
    ;;
  reload)
    before="$(newest_worker)" || die "is not running"
    write_conf
    kill -USR2 "$(own_pid)"
    wait_for 20 reloaded "$before" || die "did not come back"
    say reloaded
    ;;
  servers)
    # The admin socket speaks CSV; a shell can read it only through a program that opens UNIX sockets.
    python3 - "$DATA/admin.sock" <<'PY'
import csv, socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
s.sendall(b"show stat\n")
for row in csv.DictReader(s.makefile()):
    if row["svname"] not in ("FRONTEND", "BACKEND"):
        print(row["# pxname"], row["svname"], row["addr"], row["status"], "sessions=" + row["scur"])
PY
    ;;
  stop) stop_pid "$DATA/pid" "$MARK" TERM 10 && say stopped ;;
  status)
    if up; then
      say "up: pid=$(own_pid)"
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
