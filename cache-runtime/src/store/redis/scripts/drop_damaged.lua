-- state::drop_damaged. KEYS[1]; ARGV: the token of an entry that is forged ('' for none).
local key, mine = KEYS[1], ARGV[1]
local raw, k = look(key)
local is_forged = (k == VALUE or k == NEGATIVE or k == PENDING) and token(raw) == mine
if raw and (k == -1 or is_forged) then redis.call('DEL', key) end
return 1
