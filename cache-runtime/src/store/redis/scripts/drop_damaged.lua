-- state::drop_damaged. KEYS[1].
local key = KEYS[1]
local raw, k = look(key)
if raw and k == -1 then redis.call('DEL', key) end
return 1
