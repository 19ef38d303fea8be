-- state::end. KEYS[1]; ARGV: intent, the entry to publish ('' for none), its TTL in ms. Answers 1 if it was published.
local key, mine, entry, ttl = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3])
local raw = redis.call('GET', key)
local k = kind(raw)
if k == -3 or k == PENDING then return 0 end
if k ~= WRITING then
  -- The intent was lost, so somebody may have filled the key with the row from before the commit.
  if raw then redis.call('DEL', key) end
  wake(key, raw)
  return 0
end
local marks = flags(raw)
local at = position(raw, mine)
if at then
  raw = string.sub(raw, 1, at - 1) .. string.sub(raw, at + TOKEN)
else
  marks = add(marks, CONTENDED)
end
if has(marks, SATURATED) or #raw > HEADER then
  redis.call('SET', key, with_flags(raw, marks), 'KEEPTTL')
  return 0
end
if entry ~= '' and not has(marks, CONTENDED) then
  put(key, entry, ttl)
  return 1
end
redis.call('DEL', key)
return 0
