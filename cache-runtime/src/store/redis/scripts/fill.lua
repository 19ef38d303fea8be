-- state::fill. KEYS[1]; ARGV: token, the entry to store, TTL in ms from the grant of the lease, lease TTL in ms.
-- Answers 1 if the lease was current.
local key, mine, entry, ttl, lease_ttl = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local raw, k = look(key)
if k ~= LOADING or token(raw) ~= mine then return 0 end
local left = ttl - math.max(0, lease_ttl - remaining(key))
if left <= 0 then redis.call('DEL', key) else put(key, entry, left) end
wake(key, raw)
return 1
