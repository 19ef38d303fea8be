-- tags::TagClock: invalidate, announce, end and expire. KEYS[1]: the clock; ARGV: an incarnation for a new clock as eight bytes,
-- the largest number of marks, the step ('' to invalidate only, 'start' to begin a clock if there is none, 'begin', 'end',
-- 'expire'), the token of the write, for how many ms it is open, 1 if all rows are changed, then the tags, eight bytes each.
-- What larder cannot have written is removed: a clock that is none begins again.
-- Must succeed when memory is full. Otherwise a write would have to fail or leave old rows.
local clock, incarnation, most, step, mine, ttl = KEYS[1], ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4], tonumber(ARGV[5])
local all, first = ARGV[6] == '1', 7
local call = redis.call
local function pack(number) return struct.pack('<I8', number) end
local function number(text, at) return (struct.unpack('<I8', text, at)) end

-- The open writes without those whose time is over, and without this one when it ends.
local MOST_OPEN_MS = 86400000
local server = call('TIME')
local now_ms = server[1] * 1000 + math.floor(server[2] / 1000)
local state = typed_call('HMGET', clock, 'c', 'o')
local now, open = state[1], state[2] or ''
local is_clock = now and #now == 24 and number(now, 9) < MAX_NUMBER and number(now, 17) <= number(now, 9)
if step == 'start' and is_clock then return 0 end
local kept, at, is_known = {}, 1, false
while #open >= at + TOKEN + 11 do
  local tags = struct.unpack('<I4', open, at + TOKEN + 8)
  local size = TOKEN + 12 + 8 * tags
  if #open < at + size - 1 then break end
  local write = string.sub(open, at, at + size - 1)
  local token, until_ms = string.sub(write, 1, TOKEN), number(write, TOKEN + 1)
  if until_ms > now_ms + math.max(ttl, MOST_OPEN_MS) then
    until_ms = now_ms + MOST_OPEN_MS
    write = token .. pack(until_ms) .. string.sub(write, TOKEN + 9)
  end
  -- Of one whose time is over, something may have been filled since.
  if token == mine and step == 'begin' and until_ms > now_ms then
    is_known = true
    until_ms = math.max(until_ms, now_ms + ttl)
    write = token .. pack(until_ms) .. string.sub(write, TOKEN + 9)
  end
  if until_ms > now_ms and not (token == mine and step == 'end') then kept[#kept + 1] = write end
  at = at + size
end
if step == 'begin' and not is_known then
  local tags = {}
  if not all then
    for tag = first, #ARGV do tags[#tags + 1] = ARGV[tag] end
  end
  kept[#kept + 1] = mine .. pack(now_ms + ttl) .. struct.pack('<I4', #tags) .. table.concat(tags)
end
kept = table.concat(kept)
local function keep_open()
  if kept ~= '' then call('HSET', clock, 'o', kept) elseif open ~= '' then call('HDEL', clock, 'o') end
end
if step == 'expire' or is_known then
  keep_open()
  return 0
end

local time, floor = 0, 0
if not is_clock then
  -- Its marks are of another time.
  call('DEL', clock)
  now, open, state = nil, '', {}
else
  incarnation = string.sub(now, 1, 8)
  time, floor = number(now, 9), number(now, 17)
end
time = time + 1
if all then
  -- What is earlier than the floor is outdated whatever its tags are.
  call('DEL', clock)
  open, floor = '', time
else
  local mark = pack(time)
  for tag = first, #ARGV do call('HSET', clock, ARGV[tag], mark) end
  local marks = call('HLEN', clock) - (now and 1 or 0) - (state[2] and 1 or 0)
  if marks > most then
    local found, times, dropped = call('HGETALL', clock), {}, {}
    local function is_mark(at) return found[at] ~= 'c' and found[at] ~= 'o' end
    -- One that is none of this clock counts as just made.
    local function time_of(mark) return #mark == 8 and math.min(number(mark), time) or time end
    for field = 1, #found, 2 do
      if is_mark(field) then times[#times + 1] = time_of(found[field + 1]) end
    end
    table.sort(times)
    local last = times[math.floor((#times + 1) / 2)]
    for field = 1, #found, 2 do
      if is_mark(field) and time_of(found[field + 1]) <= last then
        dropped[#dropped + 1] = found[field]
        if #dropped == 1000 then
          call('HDEL', clock, unpack(dropped))
          dropped = {}
        end
      end
    end
    if #dropped > 0 then call('HDEL', clock, unpack(dropped)) end
    floor = math.max(floor, last)
  end
end
call('HSET', clock, 'c', incarnation .. pack(time) .. pack(floor))
keep_open()
return 1
