-- state::wait. KEYS[1]; ARGV: a Loading entry of the caller's identity, the caller's process id.
-- Answers nil if the caller will be woken, else the beginning of the entry at the key ('' if there is none).
local key, own, process = KEYS[1], ARGV[1], ARGV[2]
local raw = redis.call('GET', key)
if kind(raw) ~= LOADING or identity(raw) ~= identity(own) then return beginning(raw or '') end
for at = HEADER + 1, #raw, PROCESS do
  if string.sub(raw, at, at + PROCESS - 1) == process then return false end
end
redis.call('SET', key, raw .. process, 'KEEPTTL')
return false
