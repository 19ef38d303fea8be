-- state::wait. KEYS[1]; ARGV: a Loading entry of the caller's identity, the caller's process id.
-- Answers nil if the caller will be woken, else the beginning of the entry at the key ('' if there is none). Damage is removed.
local key, own, process = KEYS[1], ARGV[1], ARGV[2]
local raw, k = look(key)
if k == -1 then
  redis.call('DEL', key)
  return ''
end
if k ~= LOADING or identity(raw) ~= identity(own) then return beginning(raw or '') end
for at = HEADER + 1, #raw, PROCESS do
  if string.sub(raw, at, at + PROCESS - 1) == process then return false end
end
if #raw - HEADER >= MOST_WAITERS * PROCESS then return beginning(raw) end
redis.call('SET', key, raw .. process, 'KEEPTTL')
return false
