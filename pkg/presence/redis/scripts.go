package redis

import (
	"context"

	goredis "github.com/redis/go-redis/v9"
)

// Numbers of scripts are doubles: generations and epochs are microseconds since 1970 and stay exact until the year 2255.

// registerScript writes an entry unless a higher generation is there; where the entry has none yet, unless the device has registered
// elsewhere since it was asked for. KEYS: the user's hash. ARGV behind the time: device, generation (0: give one), the entry's tail, the
// generation of an entry that is known to be dead, when it was asked for. Returns {written, generation, the entry before}.
var registerScript = goredis.NewScript(inTime + `
local old = redis.call('HGET', KEYS[1], ARGV[2])
local before = old and tonumber(string.match(old, '^%d+')) or 0
local generation = tonumber(ARGV[3])
local new, own = generation == 0, old and string.sub(old, -#ARGV[4]) == ARGV[4]
if new then
  generation = tonumber(ARGV[6])
  -- Its own, from a call without an answer, or one by a clock that has stepped back since.
  if own or before > now then generation = before end
end
if generation < before and before ~= tonumber(ARGV[5]) then return {0, '0', old} end
if new and not own then generation = math.max(now, before + 1) end
local text = string.format('%.0f', generation)
redis.call('HSET', KEYS[1], ARGV[2], text .. ARGV[4])
return {1, text, old or ''}`)

// enterScript notes a node in a room. KEYS: the room's hash. ARGV behind the time: node, entry.
var enterScript = goredis.NewScript(inTime + `
return redis.call('HSET', KEYS[1], ARGV[2], ARGV[3])`)

// unregisterScript removes an entry that still begins with what is given, and ends so. KEYS: the user's hash. ARGV behind the time: device,
// beginning, end or none.
var unregisterScript = goredis.NewScript(inTime + `
local old = redis.call('HGET', KEYS[1], ARGV[2])
if old and string.sub(old, 1, #ARGV[3]) == ARGV[3] and (not ARGV[4] or string.sub(old, -#ARGV[4]) == ARGV[4]) then
  return redis.call('HDEL', KEYS[1], ARGV[2])
end
return 0`)

// acquireScript starts a lease. KEYS: the node, its last epoch. ARGV behind the time: TTL in milliseconds, seconds to remember the epoch
// for.
var acquireScript = goredis.NewScript(inTime + `
local last = tonumber(redis.call('GET', KEYS[2]) or '0')
local text = string.format('%.0f', math.max(now, last + 1))
redis.call('SET', KEYS[1], text, 'PX', ARGV[2])
redis.call('SET', KEYS[2], text, 'EX', ARGV[3])
return text`)

// renewScript extends a lease that is still held; it undoes nothing. KEYS: as above. ARGV: epoch, TTL in milliseconds, seconds to remember.
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

// scriptCall is one run of a script on one user's or one room's hash, without the time that it begins with.
type scriptCall struct {
	key  string
	args []any
}

// runAll runs a script that begins with inTime many times in one pipeline. A server that does not know the script yet (it is new, or lost
// its data) is sent its text in a second one.
func (r *Registry) runAll(ctx context.Context, s *goredis.Script, calls []scriptCall) ([]*goredis.Cmd, error) {
	until, err := r.until(ctx)
	if err != nil {
		return nil, err
	}
	args := func(c scriptCall) []any { return append([]any{until}, c.args...) }
	cmds := make([]*goredis.Cmd, len(calls))
	p := r.client.Pipeline()
	for i, c := range calls {
		cmds[i] = s.EvalSha(ctx, p, []string{c.key}, args(c)...)
	}
	if err := exec(ctx, p); err != nil {
		return nil, err
	}
	again := r.client.Pipeline()
	for i, c := range calls {
		if goredis.HasErrorPrefix(cmds[i].Err(), "NOSCRIPT") {
			cmds[i] = s.Eval(ctx, again, []string{c.key}, args(c)...)
		}
	}
	if again.Len() > 0 {
		err = exec(ctx, again)
	}
	for _, cmd := range cmds {
		r.checkLate(cmd.Err())
	}
	return cmds, err
}
