-- state::release. KEYS[1]; ARGV: token. Answers 1 if the lease was current.
local key, mine = KEYS[1], ARGV[1]
local raw, k = look(key)
if k ~= LOADING or token(raw) ~= mine then return 0 end
redis.call('DEL', key)
wake(key, raw)
return 1
