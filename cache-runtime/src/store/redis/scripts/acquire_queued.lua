-- state::acquire at a key that may have a queued write. KEYS: key, pending_index, state; ARGV: the Loading entry to store,
-- lease TTL in ms, the prefix of the names of logs. Answers nil if the lease was granted, 0 if no row may be stored now,
-- else the beginning of the entry at the key.
local key, pending_index, lease, ttl = KEYS[1], KEYS[2], ARGV[1], tonumber(ARGV[2])
local raw, k = look(key)
local known = k == WRITING or k == PENDING or k <= -2 or (k > 0 and identity(raw) == identity(lease))
if known then return beginning(raw) end
local position = typed_call('HGET', pending_index, key)
if position and #position == POSITION then
  local hex = string.gsub(string.sub(position, 1, 16), '.', function(c) return string.format('%02x', string.byte(c)) end)
  local id = '0-' .. string.format('%.0f', (struct.unpack('>I8', position, 17)))
  local written = typed_call('XRANGE', ARGV[3] .. hex, id, id)[1]
  if written then
    -- The row was evicted, but its write is still in the queue: restore it.
    local fields = written[2]
    for at = 1, #fields, 2 do
      local entry = fields[at] == 'e' and fields[at + 1]
      -- What is not the write that the index names was not written by larder.
      local start = entry and kind(entry) == PENDING and header(entry)
      if start and string.sub(entry, start + 1, start + POSITION) == position then
        redis.call('SET', key, fields[at + 1])
        wake(key, raw)
        return beginning(fields[at + 1])
      end
    end
  end
end
if position then redis.call('HDEL', pending_index, key) end
-- While writes of an earlier history may not have been flushed yet, a row from the database could be older than they are.
local queue = typed_call('HMGET', KEYS[3], 's', 'r')
if queue[1] ~= string.sub(lease, 9, 16) or queue[2] ~= '1' then return 0 end
wake(key, raw)
put(key, lease, ttl)
return false
