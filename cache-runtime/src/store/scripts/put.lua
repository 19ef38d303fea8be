-- state::put, and the write's place in its queue. KEYS: key, state, marks, flusher; ARGV: stamp, the Pending entry with an
-- empty mark, the demand (0 any, 1 present, 2 absent, 3 the token), the token, how many writes the queue may hold.
-- Answers the mark, or {what, incarnation}: 1 another history, 2 full, 3 unknown, 4 refused.
local key, state, marks, flusher = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local stamp, entry, demand, most = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[5])
local queue = redis.call('HMGET', state, 'i', 's', 'l', 'n', 't')
local incarnation = queue[1]
if not incarnation or queue[2] ~= stamp then return { 1, incarnation or '' } end
local raw = redis.call('GET', key)
local k = kind(raw)
if k == -3 then return { 3 } end
if demand > 0 then
  local present
  if k == PENDING and string.sub(raw, 9, 16) == stamp then
    present = not has(flags(raw), DELETION)
  elseif (k == VALUE or k == NEGATIVE) and identity(raw) == identity(entry) then
    present = k == VALUE
  else
    return { 3 }
  end
  if demand == 1 and not present then return { 4 } end
  if demand == 2 and present then return { 4 } end
  if demand == 3 and token(raw) ~= ARGV[4] then return { 4 } end
end
local last, cut = tonumber(queue[4]), tonumber(queue[5])
if last - cut >= most then return { 2 } end
local number = last + 1
local mark = incarnation .. struct.pack('>I8', number)
entry = string.sub(entry, 1, HEADER) .. mark .. string.sub(entry, HEADER + MARK + 1)
local now = redis.call('TIME')
redis.call('XADD', queue[3], '0-' .. number, 'k', key, 'e', entry, 'a', now[1] * 1000 + math.floor(now[2] / 1000))
redis.call('SET', key, entry)
redis.call('HSET', marks, key, mark)
redis.call('HSET', state, 'n', number)
wake(key, raw)
if last == cut then
  local process = redis.call('GET', flusher)
  if process then redis.pcall('PUBLISH', 'larder:wake:' .. process, flusher) end
end
return mark
