-- state::acquire_over, for a caller whose read found no usable entry. KEYS[1]; ARGV: the Loading entry to store, lease TTL in
-- ms, the token of an entry that is outdated ('' for none). Answers nil if the lease was granted, else the beginning of the
-- entry at the key.
local key, lease, ttl, outdated = KEYS[1], ARGV[1], tonumber(ARGV[2]), ARGV[3]
local raw, k = look(key)
local known = k == WRITING or k == PENDING or k <= -2 or (k > 0 and identity(raw) == identity(lease))
if known and not ((k == VALUE or k == NEGATIVE) and token(raw) == outdated) then return beginning(raw) end
wake(key, raw)
put(key, lease, ttl)
return false
