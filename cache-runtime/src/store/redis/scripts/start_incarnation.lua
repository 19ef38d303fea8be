-- Begins an incarnation of a queue. KEYS: state, logs; ARGV: the incarnation that must be the current one ('' for none), the
-- new one, the history, the name of its log. Answers 1 if it was begun.
local state, logs = KEYS[1], KEYS[2]
local current = typed_call('HGET', state, 'i') or ''
-- An incarnation has 16 bytes.
if #current ~= TOKEN then current = '' end
if current ~= ARGV[1] then return 0 end
redis.call('HSET', state, 'i', ARGV[2], 's', ARGV[3], 'l', ARGV[4], 'n', 0, 't', 0, 'r', 0)
typed_call('SADD', logs, ARGV[2])
return 1
