-- state::settle for writes of one incarnation that have left their queue. KEYS: state, pending_index, the log, then their keys;
-- ARGV: incarnation, up to which number the log is cut off (0 for not at all), then for each key its number as eight bytes,
-- the first one the highest, and for how many ms the row is kept (0 to drop it). Numbers are handed on as the text they came
-- as: Redis takes long to write a number of Lua.
local state, pending_index, log = KEYS[1], KEYS[2], KEYS[3]
local incarnation, cut = ARGV[1], tonumber(ARGV[2])
local call = redis.call
local cleared = {}
for at = 4, #KEYS do
  local key, position, keep = KEYS[at], incarnation .. ARGV[2 * at - 5], ARGV[2 * at - 4]
  local head = redis.pcall('GETRANGE', key, '0', '67')
  -- What is no string is somebody else's.
  if type(head) == 'string' and kind(head) == PENDING and string.sub(head, HEADER + 1) == position then
    cleared[#cleared + 1] = key
    if keep == '0' then
      call('DEL', key)
    elseif has(flags(head), DELETION) then
      head = string.sub(head, 1, 2) .. string.char(NEGATIVE, 0) .. string.sub(head, 5, HEADER)
      call('SET', key, head, 'PX', keep)
    else
      -- The row stays where it is, and its position in front of it.
      call('SETRANGE', key, '2', '\2\8')
      call('PEXPIRE', key, keep)
    end
  elseif call('HGET', pending_index, key) == position then
    cleared[#cleared + 1] = key
  end
end
if #cleared > 0 then call('HDEL', pending_index, unpack(cleared)) end
if cut > 0 then
  call('XTRIM', log, 'MINID', '0-' .. string.format('%.0f', cut + 1))
  call('ZREMRANGEBYSCORE', log .. ':large', '-inf', ARGV[2])
  local queue = call('HMGET', state, 'i', 't')
  if queue[1] == incarnation and tonumber(queue[2]) < cut then call('HSET', state, 't', ARGV[2]) end
end
return #cleared
