-- state::end. KEYS[1]; ARGV: intent, the cache update ('' for none), its TTL in ms. Answers 1 if the cache update was
-- stored.
local key, mine, entry, ttl = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3])
local raw, k = look(key)
if k == -3 or k == PENDING then return 0 end
if k ~= WRITING then
  -- The intent was lost, so another process may have filled the key with the row from before the commit.
  if raw then redis.call('DEL', key) end
  wake(key, raw)
  return 0
end
local bits = flags(raw)
local at = find_token(raw, mine)
if at then
  raw = string.sub(raw, 1, at - 1) .. string.sub(raw, at + TOKEN)
else
  bits = add(bits, CONTENDED)
end
if has(bits, SATURATED) or #raw > HEADER then
  redis.call('SET', key, with_flags(raw, bits), 'KEEPTTL')
  return 0
end
if entry ~= '' and not has(bits, CONTENDED) then
  put(key, entry, ttl)
  return 1
end
redis.call('DEL', key)
return 0
