-- state::put for rows of one queue, in their order, with a queue position each. KEYS: state, pending_index, flusher, then
-- the rows' keys; ARGV: history, how many writes the queue may hold, the size in bytes above which a write is listed as
-- large, then for each row the header of its Pending entry, its payload, the condition (0 any, 1 present, 2 absent, 3 the
-- token) and the token. Answers {1, incarnation} if the queue is of another history; else for each row its position, 2 if
-- the queue is full, 3 if the row must be loaded first, 4 if the condition is not met, or the error of a command.
local call, pcall, format, pack = redis.call, redis.pcall, string.format, struct.pack
local state, pending_index, flusher = KEYS[1], KEYS[2], KEYS[3]
local history, most, large = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local queue = typed_call('HMGET', state, 'i', 's', 'l', 'n', 't')
local incarnation, log = queue[1], queue[3]
if not incarnation or queue[2] ~= history then return { 1, incarnation or '' } end
local first, cut = tonumber(queue[4]), tonumber(queue[5])
-- Numbers that larder cannot have counted: the queue goes on in another incarnation.
local name = string.rep('%02x', TOKEN)
if #incarnation ~= TOKEN or not log or string.sub(log, -2 * TOKEN) ~= format(name, string.byte(incarnation, 1, TOKEN))
  or count_of(first) ~= first or count_of(cut) ~= cut or cut > first or first + #KEYS > MAX_NUMBER then
  return { 1, incarnation }
end
-- Most checks need only the header and a queue position. A number would be printed anew for each row.
local head_end = format('%d', HEADER + SEAL + POSITION - 1)
local place = log .. ':large'
local function listed_as(number, size) return format('%d:%d', number, size) end
local time = call('TIME')
local now = time[1] .. format('%03d', math.floor(time[2] / 1000))

-- Checks a condition against the head of the entry at a key. Returns nothing if it is met, else the answer.
local function unmet(raw, k, head, demand, wanted)
  local present
  if k == PENDING and string.sub(raw, 9, 16) == history then
    present = not has(flags(raw), DELETION)
  elseif (k == VALUE or k == NEGATIVE) and identity(raw) == identity(head) then
    present = k == VALUE
  else
    return 3
  end
  if demand == '1' and not present then return 4 end
  if demand == '2' and present then return 4 end
  if demand == '3' and token(raw) ~= wanted then return 4 end
end

local answers, marked, last, is_stuck = {}, {}, first, false
for at = 4, #KEYS do
  local key, head, demand = KEYS[at], ARGV[4 * at - 12], ARGV[4 * at - 10]
  local raw = typed_call('GETRANGE', key, '0', head_end)
  if type(raw) == 'table' then
    answers[at - 3] = raw
  else
    local k = kind(raw ~= '' and raw)
    local answer = k == -3 and 3 or (demand ~= '0' and unmet(raw, k, head, demand, ARGV[4 * at - 9]))
    if not answer and last - cut >= most then answer = 2 end
    if not answer then
      last = last + 1
      local position = incarnation .. pack('>I8', last)
      local entry = head .. position .. ARGV[4 * at - 11]
      local size = #key + #entry
      -- If an error ended the script here, the rows before this one would be in the log, but `n` would not count them.
      local listed = size <= large or typed_call('ZADD', place, last, listed_as(last, size))
      local added = type(listed) == 'table' and listed
        or pcall('XADD', log, format('0-%d', last), 'k', key, 'e', entry, 'a', now)
      if type(added) == 'table' and added.err then
        -- The log has an entry that was not written here, or is none. Another incarnation has a log of its own.
        is_stuck = is_stuck or string.find(added.err, 'equal or smaller', 1, true)
          or string.find(added.err, 'last possible ID', 1, true) or string.sub(added.err, 1, 9) == 'WRONGTYPE'
        if size > large and listed ~= added then pcall('ZREM', place, listed_as(last, size)) end
        answer, last = added, last - 1
      else
        if k == LOADING then raw = call('GET', key) end
        local set = pcall('SET', key, entry)
        local unset = set.err and pcall('DEL', key)
        if k == LOADING then wake(key, raw) end
        marked[#marked + 1] = key
        marked[#marked + 1] = position
        -- If neither SET nor DEL works, the answer is their error, although the write is in the log.
        answer = unset and set or position
      end
    end
    answers[at - 3] = answer
  end
end
if is_stuck and last == first then return { 1, incarnation } end
if last > first then
  typed_call('HSET', pending_index, unpack(marked))
  call('HSET', state, 'n', format('%d', last))
  if first == cut then
    local process = typed_call('GET', flusher)
    if process then pcall('PUBLISH', 'larder:wake:' .. process, flusher) end
  end
end
return answers
