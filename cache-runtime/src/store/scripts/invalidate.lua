-- state::invalidate. KEYS[1].
local key = KEYS[1]
local raw = redis.call('GET', key)
if kind(raw) == WRITING then
  redis.call('SET', key, with_flags(raw, add(flags(raw), CONTENDED)), 'KEEPTTL')
elseif raw then
  redis.call('DEL', key)
  wake(key, raw)
end
return 1
