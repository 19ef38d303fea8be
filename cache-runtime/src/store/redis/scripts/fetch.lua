-- Reads the state of a queue. A command that follows reads its writes. KEYS: state, flusher, the log; ARGV: process id,
-- milliseconds of the claim (0 for none), the history, the incarnation if all before it are closed ('' otherwise), the
-- number after which large writes are listed, and how many at most. Answers {0} if another process has the claim, else {1,
-- current incarnation, its last number, the log's last number, the time in ms, 1 if the current incarnation is of the
-- present history, the large writes, each as number:bytes}.
local state, flusher, log = KEYS[1], KEYS[2], KEYS[3]
local claim = tonumber(ARGV[2])
if claim > 0 then
  local holder = typed_call('GET', flusher)
  -- A claim that would never end is none of larder.
  if holder and holder ~= ARGV[1] and redis.call('PTTL', flusher) >= 0 then return { 0 } end
  redis.call('SET', flusher, ARGV[1], 'PX', claim)
end
local queue = typed_call('HMGET', state, 'i', 'n', 's', 'r')
local present = queue[3] == ARGV[3]
if present and queue[1] == ARGV[4] and queue[4] ~= '1' then redis.call('HSET', state, 'r', 1) end
local last = typed_call('XREVRANGE', log, '+', '-', 'COUNT', 1)
local now = redis.call('TIME')
return {
  1, queue[1] or '', count_of(queue[2]), last[1] and last[1][1] or '0-0',
  now[1] * 1000 + math.floor(now[2] / 1000), present and 1 or 0,
  typed_call('ZRANGEBYSCORE', log .. ':large', '(' .. ARGV[5], '+inf', 'LIMIT', 0, ARGV[6]),
}
