package redis

import (
	"context"

	goredis "github.com/redis/go-redis/v9"
)

// Numbers of scripts are doubles: generations and epochs are microseconds since 1970 and stay exact until the year 2255.

// registerScript writes an entry unless a higher generation is there. KEYS: the user's hash. ARGV: device, generation (0: give
// one), the entry's tail, the generation of an entry that is known to be dead. Returns {written, generation, the entry before}.
var registerScript = goredis.NewScript(`
local old = redis.call('HGET', KEYS[1], ARGV[1])
local before = old and tonumber(string.match(old, '^%d+')) or 0
local generation = tonumber(ARGV[2])
if generation == 0 then
  local t = redis.call('TIME')
  generation = t[1] * 1000000 + t[2]
  if generation <= before then generation = before + 1 end
elseif generation < before and before ~= tonumber(ARGV[4]) then
  return {0, '0', old}
end
local text = string.format('%.0f', generation)
redis.call('HSET', KEYS[1], ARGV[1], text .. ARGV[3])
return {1, text, old or ''}`)

// unregisterScript removes an entry that still begins with what is given, and ends so. KEYS: the user's hash. ARGV: device, beginning, end
// or none.
var unregisterScript = goredis.NewScript(`
local old = redis.call('HGET', KEYS[1], ARGV[1])
if old and string.sub(old, 1, #ARGV[2]) == ARGV[2] and (not ARGV[3] or string.sub(old, -#ARGV[3]) == ARGV[3]) then
  return redis.call('HDEL', KEYS[1], ARGV[1])
end
return 0`)

// acquireScript starts a lease. KEYS: the node, its last epoch. ARGV: TTL in milliseconds, seconds to remember the epoch for.
var acquireScript = goredis.NewScript(`
local t = redis.call('TIME')
local epoch = t[1] * 1000000 + t[2]
local last = tonumber(redis.call('GET', KEYS[2]) or '0')
if epoch <= last then epoch = last + 1 end
local text = string.format('%.0f', epoch)
redis.call('SET', KEYS[1], text, 'PX', ARGV[1])
redis.call('SET', KEYS[2], text, 'EX', ARGV[2])
return text`)

// renewScript extends a lease that is still held. KEYS: as above. ARGV: epoch, TTL in milliseconds, seconds to remember.
var renewScript = goredis.NewScript(`
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('EXPIRE', KEYS[2], ARGV[3])
return 1`)

// releaseScript ends it. KEYS: the node. ARGV: epoch.
var releaseScript = goredis.NewScript(`
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0`)

// janitorScript keeps or takes the janitor's place. KEYS: janitor. ARGV: who, TTL in milliseconds.
var janitorScript = goredis.NewScript(`
local who = redis.call('GET', KEYS[1])
if who and who ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1`)

// scriptCall is one run of a script on one user's hash.
type scriptCall struct {
	key  string
	args []any
}

// runAll runs a script many times in one pipeline. A server that does not know the script yet (it is new, or lost its data) is
// sent its text in a second one.
func (r *Registry) runAll(ctx context.Context, s *goredis.Script, calls []scriptCall) ([]*goredis.Cmd, error) {
	cmds := make([]*goredis.Cmd, len(calls))
	p := r.client.Pipeline()
	for i, c := range calls {
		cmds[i] = s.EvalSha(ctx, p, []string{c.key}, c.args...)
	}
	if err := exec(ctx, p); err != nil {
		return nil, err
	}
	again := r.client.Pipeline()
	for i, c := range calls {
		if goredis.HasErrorPrefix(cmds[i].Err(), "NOSCRIPT") {
			cmds[i] = s.Eval(ctx, again, []string{c.key}, c.args...)
		}
	}
	if again.Len() == 0 {
		return cmds, nil
	}
	return cmds, exec(ctx, again)
}
