-- state::invalidate. KEYS[1].
local key = KEYS[1]
local raw, k = look(key)
if k == WRITING then
  redis.call('SET', key, with_flags(raw, add(flags(raw), CONTENDED)), 'KEEPTTL')
elseif raw and k ~= -3 and k ~= PENDING then
  redis.call('DEL', key)
  wake(key, raw)
end
return 1
