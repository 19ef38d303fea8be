-- tags::TagClock::invalidate and invalidate_all. KEYS[1]: the clock; ARGV: an incarnation for a new clock as eight bytes, the
-- largest number of marks, 1 to invalidate everything, then the tags, eight bytes each. Answers the clock.
local clock, incarnation, most, all = KEYS[1], ARGV[1], tonumber(ARGV[2]), ARGV[3] == '1'
local call = redis.call
local now = call('HGET', clock, 'c')
local time, floor = 0, 0
if now and #now == 24 then
  incarnation = string.sub(now, 1, 8)
  time, floor = struct.unpack('<I8', now, 9), struct.unpack('<I8', now, 17)
end
time = time + 1
local function pack(number) return struct.pack('<I8', number) end
if all then
  -- What is earlier than the floor is outdated whatever its tags are.
  call('DEL', clock)
  floor = time
else
  local mark = pack(time)
  for at = 4, #ARGV do call('HSET', clock, ARGV[at], mark) end
  -- The clock itself is a field of the hash.
  local marks = call('HLEN', clock) - (now and 1 or 0)
  if marks > most then
    local found, times, dropped = call('HGETALL', clock), {}, {}
    for at = 1, #found, 2 do
      if found[at] ~= 'c' then times[#times + 1] = struct.unpack('<I8', found[at + 1]) end
    end
    table.sort(times)
    local last = times[math.floor((#times + 1) / 2)]
    for at = 1, #found, 2 do
      if found[at] ~= 'c' and struct.unpack('<I8', found[at + 1]) <= last then
        dropped[#dropped + 1] = found[at]
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
now = incarnation .. pack(time) .. pack(floor)
call('HSET', clock, 'c', now)
return now
