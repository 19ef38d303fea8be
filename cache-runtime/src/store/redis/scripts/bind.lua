-- Binds a namespace to a database, and an entity in it to a table. KEYS: the binding; ARGV: the database that must be bound
-- ('' if none may be), the database to bind, the entity, its table, 1 to replace the binding whatever it is. Answers the
-- binding after that: as requested, or what kept the request from succeeding. The caller decides which databases are the
-- same.
local binding, seen, leave, entity, own, forced = KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
if forced == '1' then
  redis.call('DEL', binding)
  redis.call('HSET', binding, 'database', leave)
  return { leave, '' }
end
local field = 'table:' .. entity
local bound = redis.call('HMGET', binding, 'database', field)
local database, stands_for = bound[1] or '', bound[2] or ''
if database ~= seen or (stands_for ~= '' and stands_for ~= own) then return { database, stands_for } end
redis.call('HSET', binding, 'database', leave, field, own)
return { leave, own }
