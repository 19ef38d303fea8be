-- Binds a namespace to a database, and an entity in it to a table. KEYS: the binding; ARGV: the database that must be bound
-- ('' if none may be), the database to bind, the entity, its table, 1 to replace the binding whatever it is, what to record of
-- the entity ('' for nothing), after how many ms a record is renewed, and after how many it is dropped. Answers the binding
-- after that: as requested, or what kept the request from succeeding. The caller decides which databases are the same. Then
-- how old the record of the entity is (-1: it has to be recorded), and the other entities over the table, as family::record.
local binding, seen, leave, entity, own, forced = KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local shape, renew, forget = ARGV[6], tonumber(ARGV[7]), tonumber(ARGV[8])
if forced == '1' then
  redis.call('DEL', binding)
  redis.call('HSET', binding, 'database', leave)
  return { leave, '', -1, {} }
end
local field = 'table:' .. entity
local bound = typed_call('HMGET', binding, 'database', field)
local database, stands_for = bound[1] or '', bound[2] or ''
local is_claimed = database == seen and (stands_for == '' or stands_for == own)
local family = 'family:' .. (stands_for ~= '' and stands_for or own)

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function since(moment) return math.max(0, now - moment) end
local function line(first, last, of) return string.format('%.0f %.0f %s\n', first, last, of) end
local kept, others, age, is_changed = {}, {}, -1, false
for first, last, of in string.gmatch(redis.call('HMGET', binding, family)[1] or '', '(%d+) (%d+) ([^\n]+)\n') do
  first, last = tonumber(first), tonumber(last)
  -- Not by this clock.
  is_changed = is_changed or first > now or last > now
  first, last = math.min(first, now), math.min(last, now)
  local idle = since(last)
  if idle > forget then
    is_changed = true
  else
    if of ~= shape then
      others[#others + 1] = { of, since(first), idle }
    elseif idle <= renew then
      age = since(first)
    elseif is_claimed then
      last, age, is_changed = now, since(first), true
    end
    kept[#kept + 1] = line(first, last, of)
  end
end
if not is_claimed then return { database, stands_for, age, others } end
if shape ~= '' and age < 0 then
  kept[#kept + 1], age, is_changed = line(now, now, shape), 0, true
end
redis.call('HSET', binding, 'database', leave, field, own)
if is_changed then redis.call('HSET', binding, family, table.concat(kept)) end
return { leave, own, age, others }
