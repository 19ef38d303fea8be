-- state::settle for writes of one incarnation that have left their queue. KEYS: state, marks, the log, then their keys;
-- ARGV: incarnation, up to which number the log is cut off (0 for not at all), then for each key its number and for how many
-- ms the row is kept (0 to drop it).
local state, marks, log = KEYS[1], KEYS[2], KEYS[3]
local incarnation, cut = ARGV[1], tonumber(ARGV[2])
local cleared = {}
for at = 4, #KEYS do
  local key = KEYS[at]
  local number, keep = tonumber(ARGV[2 * at - 5]), tonumber(ARGV[2 * at - 4])
  local mark = incarnation .. struct.pack('>I8', number)
  local raw = redis.call('GET', key)
  if kind(raw) == PENDING and string.sub(raw, HEADER + 1, HEADER + MARK) == mark then
    cleared[#cleared + 1] = key
    if keep == 0 then
      redis.call('DEL', key)
    else
      local deletion = has(flags(raw), DELETION)
      local head = string.sub(raw, 1, 2) .. string.char(deletion and NEGATIVE or VALUE, 0) .. string.sub(raw, 5, HEADER)
      put(key, deletion and head or head .. string.sub(raw, HEADER + MARK + 1), keep)
    end
  elseif redis.call('HGET', marks, key) == mark then
    cleared[#cleared + 1] = key
  end
end
if #cleared > 0 then redis.call('HDEL', marks, unpack(cleared)) end
if cut > 0 then
  redis.call('XTRIM', log, 'MINID', '0-' .. string.format('%.0f', cut + 1))
  local queue = redis.call('HMGET', state, 'i', 't')
  if queue[1] == incarnation and tonumber(queue[2]) < cut then redis.call('HSET', state, 't', cut) end
end
return #cleared
