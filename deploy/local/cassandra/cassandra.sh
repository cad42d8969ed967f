#!/usr/bin/env bash
# A real Apache Cassandra, for tests and for trying Halley out. Node N listens on HOST_cassandra_N, else 127.0.0.N.
#   cassandra.sh fetch            download the jars from Maven's registry, once
#   cassandra.sh start [N]        start all nodes (or node N) and wait until they speak CQL
#   cassandra.sh stop [N]         clean stop
#   cassandra.sh kill N           kill -9
#   cassandra.sh pause|resume N   SIGSTOP, SIGCONT
#   cassandra.sh status           one line per node; succeeds when all are up
#   cassandra.sh nodetool N ...   Cassandra's nodetool against node N
#   cassandra.sh wipe             stop and delete all data
# Settings, from the environment, the same for start and for later commands:
#   CASSANDRA_NODES=1|3           CASSANDRA_HEAP=512m
#   CASSANDRA_PORT=9042           CASSANDRA_STORAGE_PORT=7000     CASSANDRA_JMX_PORT=7199 (node N: + N-1)
#   CASSANDRA_SYNC=group|batch|periodic     CASSANDRA_SYNC_WINDOW=5ms (group)     CASSANDRA_SYNC_PERIOD=10s (periodic)
#   CASSANDRA_TIMEOUT=5s          the server's limit for a read, a write and a compare-and-set
#   CASSANDRA_JIT=c1|full         c1 starts with less CPU; take full for figures
#   CASSANDRA_DATA=$SERVICES_DIR/cassandra     CASSANDRA_START_TIMEOUT=180     CASSANDRA_JVM_EXTRA=
#   SERVICES_TLS=1                clients must speak TLS
# No password, one token per node: nothing here is meant for production.
set -euo pipefail
source "$(dirname "$0")/../lib.sh"

CONF="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
NODES="${CASSANDRA_NODES:-1}"
HEAP="${CASSANDRA_HEAP:-512m}"
PORT="${CASSANDRA_PORT:-9042}"
STORAGE_PORT="${CASSANDRA_STORAGE_PORT:-7000}"
JMX_PORT="${CASSANDRA_JMX_PORT:-7199}"
# periodic, which Cassandra ships, acknowledges before the disk has it: killing the process is enough to lose writes.
SYNC="${CASSANDRA_SYNC:-group}"
DATA="${CASSANDRA_DATA:-$SERVICES_DIR/cassandra}"
START_TIMEOUT="${CASSANDRA_START_TIMEOUT:-180}"
TOKENS=(-9223372036854775808 -3074457345618258603 3074457345618258602)
[[ "$NODES" =~ ^[1-3]$ ]] || die "CASSANDRA_NODES must be 1 to ${#TOKENS[@]}"
case "$DATA" in /*) ;; *) die "CASSANDRA_DATA must be absolute" ;; esac

VERSION="$(sed -n 's:.*<cassandra.version>\(.*\)</cassandra.version>.*:\1:p' "$CONF/pom.xml")"
LIB="$SERVICES_CACHE/cassandra-$VERSION"

# Cassandra 5.0 wants JDK 11 or 17, whatever java stands first in PATH.
find_java() {
  local home
  for home in "${CASSANDRA_JAVA_HOME:-}" /usr/lib/jvm/java-17-openjdk-* "${JAVA_HOME:-}"; do
    if [ -x "$home/bin/java" ] && "$home/bin/java" -version 2>&1 | grep -q 'version "17'; then
      echo "$home/bin/java"
      return
    fi
  done
  if command -v java >/dev/null && java -version 2>&1 | grep -q 'version "17'; then
    command -v java
    return
  fi
  die "no JDK 17: install openjdk-17-jdk-headless, or name one in CASSANDRA_JAVA_HOME"
}

fetch() {
  [ ! -e "$LIB/.complete" ] || return 0
  command -v mvn >/dev/null || die "no mvn: install maven"
  (
    flock 9
    [ ! -e "$LIB/.complete" ] || exit 0
    t0="$(now_ms)"
    java="$(find_java)"
    rm -rf "$LIB"
    JAVA_HOME="$(dirname "$(dirname "$(readlink -f "$java")")")" mvn -B -ntp -q -Dstyle.color=never -f "$CONF/pom.xml" \
      dependency:copy-dependencies -DoutputDirectory="$LIB"
    touch "$LIB/.complete"
    say "fetched $VERSION: $(du -sm "$LIB" | cut -f1) MB in $(($(now_ms) - t0)) ms"
  ) 9>"$SERVICES_CACHE/.cassandra.lock"
}

dir() { echo "$DATA/node$1"; }
at() { host "cassandra-$1" "127.0.0.$1"; }

# What stands in the command line of node N and of no other process. The blank keeps node1 apart from node10.
mark() { echo "-Dcassandra.storagedir=$(dir "$1") "; }

alive() { pid_of "$(dir "$1")/pid" "$(mark "$1")"; }

# An OPTIONS frame is answered with SUPPORTED: the node speaks CQL. An open port alone comes too early.
cql_up() {
  local reply
  if tls; then
    # shellcheck disable=SC2016
    reply="$(timeout 5 bash -c '{ printf "\x04\x00\x00\x00\x05\x00\x00\x00\x00"; sleep 1; } |
      openssl s_client -quiet -no_ign_eof -CAfile "$1" -connect "$0" 2>/dev/null | head -c 5 | od -An -tx1' \
      "$(at "$1"):$PORT" "$TLS_DIR/ca.pem" 2>/dev/null)" || return 1
    [ "${reply// /}" = 8400000006 ]
    return
  fi
  # shellcheck disable=SC2016 # The inner bash expands them.
  reply="$(timeout 2 bash -c 'exec 3<>"/dev/tcp/$0/$1" && printf "\x04\x00\x00\x00\x05\x00\x00\x00\x00" >&3 && head -c 5 <&3 | od -An -tx1' \
    "$(at "$1")" "$PORT" 2>/dev/null)" || return 1
  [ "${reply// /}" = 8400000006 ]
}

write_conf() {
  local n="$1" d seeds sync i memtable=128MiB client_tls="# Clients speak without TLS."
  [ "$NODES" = 1 ] || memtable=64MiB
  d="$(dir "$n")"
  mkdir -p "$d/conf" "$d/log"
  seeds="$(at 1):$STORAGE_PORT"
  for ((i = 2; i <= NODES; i++)); do seeds+=",$(at "$i"):$STORAGE_PORT"; done
  case "$SYNC" in
    group) sync="commitlog_sync: group\ncommitlog_sync_group_window: ${CASSANDRA_SYNC_WINDOW:-5ms}" ;;
    batch) sync="commitlog_sync: batch" ;;
    periodic) sync="commitlog_sync: periodic\ncommitlog_sync_period: ${CASSANDRA_SYNC_PERIOD:-10s}" ;;
    *) die "CASSANDRA_SYNC must be group, batch or periodic" ;;
  esac
  if tls; then
    make_certificates
    client_tls="client_encryption_options:\\n  enabled: true\\n  optional: false\\n  store_type: PKCS12\\n  keystore_password: halley"
    client_tls+="\\n  keystore: $TLS_DIR/server.p12"
  fi
  sed -e "s|@CLIENT_TLS@|$client_tls|; s|@TOKEN@|${TOKENS[n - 1]}|; s|@SEEDS@|$seeds|; s|@ADDR@|$(at "$n")|; s|@STORAGE_PORT@|$STORAGE_PORT|" \
    -e "s|@PORT@|$PORT|; s|@DIR@|$d|; s|@SYNC@|$sync|; s|@MEMTABLE@|$memtable|; s|@TIMEOUT@|${CASSANDRA_TIMEOUT:-5s}|" \
    "$CONF/cassandra.yaml.in" >"$d/conf/cassandra.yaml"
  cp "$CONF/logback.xml" "$d/conf/logback.xml"
}

launch() {
  local n="$1" d opts java
  d="$(dir "$n")"
  ! alive "$n" >/dev/null || return 0
  java="$(find_java)"
  ! port_open "$(at "$n")" "$PORT" || die "$(at "$n"):$PORT is taken by another process"
  write_conf "$n"
  mapfile -t opts < <(grep '^-' "$CONF/jvm17.options")
  [ "${CASSANDRA_JIT:-c1}" = full ] || opts+=(-XX:TieredStopAtLevel=1)
  # Class-data sharing saves about a quarter of a start's CPU. The first clean stop of node 1 writes the archive (see
  # keep_archive); later starts map it.
  opts+=(-Xshare:auto -XX:+UnlockDiagnosticVMOptions -XX:+AllowArchivingWithJavaAgent)
  if [ -s "$LIB/classes.jsa" ]; then
    opts+=("-XX:SharedArchiveFile=$LIB/classes.jsa")
  elif [ "$n" = 1 ]; then
    opts+=("-XX:ArchiveClassesAtExit=$d/classes.jsa" -Xlog:cds=off -Xlog:cds+dynamic=off)
  fi
  # Jars in a fixed order, and nothing but jars: the archive holds only for the class path that it was written with.
  # shellcheck disable=SC2086
  spawn "$d/pid" "$d/log/stdout.log" "$java" "${opts[@]}" -Xms128m "-Xmx$HEAP" \
    "-javaagent:$(ls "$LIB"/jamm-*.jar)" \
    "-Dcassandra.storagedir=$d" "-Dcassandra.logdir=$d/log" -Dcassandra-foreground=yes \
    "-Dcassandra.config=file://$d/conf/cassandra.yaml" -Dlogback.configurationFile="$d/conf/logback.xml" \
    "-Dcassandra.jmx.local.port=$((JMX_PORT + n - 1))" \
    -Dcassandra.skip_wait_for_gossip_to_settle=0 -Dcassandra.ring_delay_ms=1000 \
    -Dcassandra.consistent.rangemovement=false ${CASSANDRA_JVM_EXTRA:-} \
    -cp "$(printf '%s:' "$LIB"/*.jar)" org.apache.cassandra.service.CassandraDaemon
}

await() {
  local n="$1" d
  d="$(dir "$n")"
  up_or_dead() { cql_up "$n" || ! alive "$n" >/dev/null; }
  if ! wait_for "$START_TIMEOUT" up_or_dead || ! cql_up "$n"; then
    tail -n 30 "$d/log/stdout.log" "$d/log/system.log" >&2 || true
    die "node $n did not start"
  fi
}

keep_archive() {
  local archive
  archive="$(dir 1)/classes.jsa"
  if [ -s "$archive" ] && [ ! -s "$LIB/classes.jsa" ]; then mv "$archive" "$LIB/classes.jsa"; fi
  rm -f "$archive"
}

wanted() { if [ -n "${1:-}" ]; then echo "$1"; else seq 1 "$NODES"; fi; }

existing() {
  local n
  if [ -n "${1:-}" ]; then
    echo "$1"
    return
  fi
  for n in 1 2 3; do
    if [ -d "$(dir "$n")" ]; then echo "$n"; fi
  done
}

start() {
  local n t0 pid
  fetch
  t0="$(now_ms)"
  for n in $(wanted "${1:-}"); do launch "$n"; done
  for n in $(wanted "${1:-}"); do await "$n"; done
  for n in $(wanted "${1:-}"); do
    pid="$(cat "$(dir "$n")/pid")"
    say "node $n up: $(at "$n"):$PORT version=$VERSION sync=$SYNC rss=$(rss_mb "$pid")MB cpu=$(cpu_ms "$pid")ms"
  done
  say "started in $(($(now_ms) - t0)) ms"
}

stop() {
  local n
  for n in $(existing "${1:-}"); do stop_pid "$(dir "$n")/pid" "$(mark "$n")" TERM 60 & done
  wait
  keep_archive
  say stopped
}

status() {
  local n pid up=0 all=0
  for n in $(existing); do
    all=$((all + 1))
    if pid="$(alive "$n")" && cql_up "$n"; then
      up=$((up + 1))
      say "node $n up: $(at "$n"):$PORT pid=$pid rss=$(rss_mb "$pid")MB"
    else
      say "node $n down"
    fi
  done
  if [ "$all" = 0 ] || [ "$up" != "$all" ]; then die "$up of $all nodes up"; fi
}

nodetool() {
  local n="$1" opts
  shift
  mapfile -t opts < <(grep -E '^--add' "$CONF/jvm17.options")
  exec "$(find_java)" "${opts[@]}" -Xmx64m "-Dcassandra.storagedir=$(dir "$n")" "-Dcassandra.logdir=$(dir "$n")/log" \
    "-Dcassandra.config=file://$(dir "$n")/conf/cassandra.yaml" -Dlogback.configurationFile="$CONF/logback-tools.xml" \
    -cp "$(printf '%s:' "$LIB"/*.jar)" org.apache.cassandra.tools.NodeTool -h 127.0.0.1 -p $((JMX_PORT + n - 1)) "$@"
}

signal() {
  local pid
  pid="$(alive "$2")" || die "node $2 is not running"
  kill "-$1" "$pid"
}

case "${1:-}" in
  fetch) fetch ;;
  start) start "${2:-}" ;;
  stop) stop "${2:-}" ;;
  kill)
    stop_pid "$(dir "${2:?which node}")/pid" "$(mark "$2")" KILL 10
    say "node $2 killed"
    ;;
  pause) signal STOP "${2:?which node}" ;;
  resume) signal CONT "${2:?which node}" ;;
  status) status ;;
  nodetool)
    n="${2:?which node}"
    shift 2
    nodetool "$n" "$@"
    ;;
  wipe)
    stop
    rm -rf "$DATA"
    say wiped
    ;;
  *) usage ;;
esac
