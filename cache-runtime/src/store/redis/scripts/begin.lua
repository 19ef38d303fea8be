-- state::begin. KEYS[1]; ARGV: intent, an empty Writing entry, intent TTL in ms, the largest number of listed intents.
-- Must succeed when memory is full. Otherwise a write would have to fail or leave an old row at the key.
local key, mine, empty, ttl, most = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local raw, k = look(key)
-- Newer writers keep readers off the key already, and their intents must not be lost. A queued write must not be lost
-- either.
if k == -3 or k == PENDING then return 0 end
if k ~= WRITING then
  wake(key, raw)
  put(key, empty .. mine, ttl)
  return 1
end
if not find_token(raw, mine) then
  local bits = flags(raw)
  if #raw > HEADER or has(bits, SATURATED) then bits = add(bits, CONTENDED) end
  if (#raw - HEADER) / TOKEN < most then
    raw = raw .. mine
  else
    bits = add(bits, SATURATED)
  end
  raw = with_flags(raw, bits)
end
put(key, raw, math.max(ttl, remaining(key)))
return 1
