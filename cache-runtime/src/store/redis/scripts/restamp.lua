-- state::restamp. KEYS[1]; ARGV: the token of the entry, the stamp as in an entry, the time of the stamp. Answers 1 if the
-- entry has the stamp now.
local key, mine, stamp, time = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3])
local head = redis.pcall('GETRANGE', key, 0, HEADER + SEAL + STAMP + POSITION - 1)
if type(head) ~= 'string' or kind(head) ~= VALUE or token(head) ~= mine then return 0 end
local start = header(head)
if not has(flags(head), STAMPED) or string.sub(head, start + 1, start + 8) ~= string.sub(stamp, 1, 8) then return 0 end
if struct.unpack('<I8', head, start + 9) >= time then return 0 end
redis.call('SETRANGE', key, start, stamp)
return 1
