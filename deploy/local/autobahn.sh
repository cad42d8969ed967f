#!/usr/bin/env bash
# Autobahn's cases against the WebSocket transport, strict, driven by kosoku from PyPI: an outside judge of RFC 6455.
#   autobahn.sh [REPORTS]       where the reports are kept; without it nowhere
# All cases but 12.* and 13.*, which are about compression: that is not offered. The last line counts; exits 1 if a case fails,
# is not strict, or was not run.
# Settings (environment): AUTOBAHN_PORT (default: a free one)  AUTOBAHN_CASES='*'
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

KOSOKU_VERSION=0.1.0
# What the suite of this version has, without compression: a judge who leaves cases out is no judge.
ALL_CASES=301
CASES="${AUTOBAHN_CASES:-*}"

"$HERE/install.sh" python >/dev/null
PYTHON="$SERVICES_CACHE/venv/bin/python"
"$SERVICES_CACHE/venv/bin/pip" install -q --disable-pip-version-check "kosoku==$KOSOKU_VERSION"

work="$(mktemp -d)"
pid=""
finish() {
  if [ -n "$pid" ]; then
    kill -INT "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
  fi
  rm -rf "$work"
}
trap finish EXIT

reports="${1:-$work/reports}"
port="${AUTOBAHN_PORT:-}"
[ -n "$port" ] || for port in $(shuf -i 20000-32000 -n 50); do port_open 127.0.0.1 "$port" || break; done

cd "$ROOT"
go test -c -o "$work/echo" ./comet/transport/websocket
"$work/echo" -test.run '^TestAutobahn$' -test.timeout 0 -autobahn "127.0.0.1:$port" >"$work/echo.log" 2>&1 &
pid=$!
up() { kill -0 "$pid" 2>/dev/null && port_open 127.0.0.1 "$port"; }
wait_for 30 up || {
  cat "$work/echo.log" >&2
  die "the echo server did not start"
}
rm -f "$reports/index.json"
# kosoku's own exit code says that a case failed; which one, and how many, is told below.
"$SERVICES_CACHE/venv/bin/kosoku" -m fuzzingclient -p 2 -i "$CASES" -x '12.*' -x '13.*' -o "$reports" "127.0.0.1:$port" >"$work/kosoku.log" 2>&1 || [ -s "$reports/index.json" ] || {
  tail -n 20 "$work/kosoku.log" >&2
  die "kosoku failed"
}
kill -0 "$pid" 2>/dev/null || {
  tail -n 40 "$work/echo.log" >&2
  die "the server did not survive the cases"
}
"$PYTHON" - "$reports/index.json" "$CASES" "$ALL_CASES" <<'PYTHON'
import collections, json, sys

path, cases, every = sys.argv[1], sys.argv[2], int(sys.argv[3])
with open(path) as f:
    (results,) = json.load(f).values()
counts, bad = collections.Counter(), []
for case, result in sorted(results.items(), key=lambda item: [int(n) for n in item[0].split(".")]):
    # How a case ends counts as well as what it says: a server that answers rightly and does not close is not right.
    seen = {result["behavior"], result.get("behaviorClose", "OK")}
    verdict = next((v for v in seen if v not in ("OK", "INFORMATIONAL")), result["behavior"])
    counts[verdict] += 1
    if verdict not in ("OK", "INFORMATIONAL"):
        bad.append(f"  {case}: {result['behavior']}, close {result.get('behaviorClose')}")
print("\n".join(bad), end="\n" if bad else "")
ran = sum(counts.values())
missing = max(0, every - ran) if cases == "*" else (ran == 0)
print(f"autobahn: {ran} cases, {counts['OK']} OK, {counts['INFORMATIONAL']} informational, {len(bad)} failed, {int(missing)} not run")
sys.exit(1 if bad or missing else 0)
PYTHON
