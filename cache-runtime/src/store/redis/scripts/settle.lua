-- state::settle for flushed writes of one incarnation. KEYS: state, pending_index, the log, then the rows' keys; ARGV:
-- incarnation, the number up to which the log is trimmed (0 for not at all), then for each key the number of its write as
-- eight big-endian bytes, and for how many ms the row is kept (0 to drop it). Numbers are passed on as text: Redis is slow
-- at converting numbers of Lua.
local state, pending_index, log = KEYS[1], KEYS[2], KEYS[3]
local incarnation, cut = ARGV[1], tonumber(ARGV[2])
local call = redis.call
local cleared = {}
for at = 4, #KEYS do
  local key, position, keep = KEYS[at], incarnation .. ARGV[2 * at - 5], ARGV[2 * at - 4]
  local head = redis.pcall('GETRANGE', key, '0', HEADER + SEAL + POSITION - 1)
  -- Larder stores only strings at the keys of rows. Any other type was written by another program.
  local start = type(head) == 'string' and kind(head) == PENDING and header(head)
  if start and string.sub(head, start + 1, start + POSITION) == position then
    cleared[#cleared + 1] = key
    if keep == '0' then
      call('DEL', key)
    elseif has(flags(head), DELETION) then
      head = string.sub(head, 1, 2) .. string.char(NEGATIVE, 0) .. string.sub(head, 5, start)
      call('SET', key, head, 'PX', keep)
    else
      -- The row and the queue position before it stay where they are.
      call('SETRANGE', key, '2', '\2\8')
      call('PEXPIRE', key, keep)
    end
  elseif typed_call('HGET', pending_index, key) == position then
    cleared[#cleared + 1] = key
  end
end
if #cleared > 0 then call('HDEL', pending_index, unpack(cleared)) end
if cut > 0 then
  typed_call('XTRIM', log, 'MINID', '0-' .. string.format('%.0f', cut + 1))
  typed_call('ZREMRANGEBYSCORE', log .. ':large', '-inf', ARGV[2])
  local queue = typed_call('HMGET', state, 'i', 't')
  if queue[1] == incarnation and count_of(queue[2]) < cut then call('HSET', state, 't', ARGV[2]) end
end
return #cleared
