#!lua
-- Reads and writes the binary entry of docs/format.md. Every script below begins with this text. Each is one operation of
-- the state machine in state.rs. It is atomic because Redis runs one script at a time. Byte positions count from one, as in
-- Lua.

local MAGIC, FORMAT, HEADER = 0xCA, 2, 44
local LOADING, VALUE, NEGATIVE, WRITING, PENDING = 1, 2, 3, 4, 5
local CONTENDED, SATURATED, DELETION, POSITIONED, STAMPED = 1, 2, 4, 8, 16
local LARGE_ENTRY = 131072
local MOST_WAITERS, MOST_INTENTS = 4096, 1024
local TOKEN, PROCESS, POSITION, STAMP, SEAL = 16, 8, 24, 16, 16

-- Returns the length of the header of an entry, with its seal if the entry has one.
local function header(raw)
  return string.byte(raw, 2) == 2 and HEADER + SEAL or HEADER
end

-- Returns the state number of an entry; 0 for an absent key, -1 for damage, -2 for a later format, -3 for a later format
-- that says that a write is in progress.
local function kind(raw)
  if not raw then return 0 end
  local magic, format, number, bits = string.byte(raw, 1, 4)
  if magic ~= MAGIC or not format or format == 0 then return -1 end
  if format > FORMAT then return number == WRITING and -3 or -2 end
  local body = #raw - header(raw)
  if body < 0 or format == 2 and (number == LOADING or number == WRITING) then return -1 end
  if number == LOADING and body % PROCESS == 0 and body <= MOST_WAITERS * PROCESS then return number end
  if number == WRITING and body % TOKEN == 0 and body <= MOST_INTENTS * TOKEN then return number end
  if number == PENDING and body >= POSITION then return number end
  -- An entry without the bit has no stamp. An entry with the bit must be long enough for one.
  if bits % (2 * STAMPED) >= STAMPED then body = body - STAMP end
  if number == NEGATIVE and body == 0 then return number end
  -- The same is true of the queue position.
  if bits % (2 * POSITIONED) >= POSITIONED then body = body - POSITION end
  if number == VALUE and body >= 0 then return number end
  return -1
end

-- Returns fingerprint, history and codec. A reader can use the entries with its own identity.
local function identity(raw)
  return string.sub(raw, 5, 16) .. string.sub(raw, 25, 25)
end

local function token(raw) return string.sub(raw, 29, 44) end

-- Returns the entry at a key, and its state number. What cannot stand there is damage, as in state::sound: a queued write at a
-- key without a queue, and an entry that would never expire; nobody waits for it. Another type than a string is removed.
local function look(key)
  local raw = redis.pcall('GET', key)
  if type(raw) == 'table' then
    if string.sub(raw.err, 1, 9) ~= 'WRONGTYPE' then return redis.call('GET', key), -1 end
    redis.call('DEL', key)
    raw = false
  end
  local k = kind(raw)
  if k == 0 or k == -1 then return raw, k end
  local has_queue = string.find(key, '^{[^}]*:p%x%x}')
  if k == PENDING then
    if not has_queue then return '', -1 end
  -- A queued write of a later format may have no time to live either.
  elseif (k > 0 or not has_queue) and redis.call('PTTL', key) == -1 then
    return '', -1
  end
  return raw, k
end

-- Tells the processes that wait for a lease that it has ended. An error of PUBLISH must not undo the step: the waiters go on
-- by themselves when their `wait` ends.
local function wake(key, raw)
  if kind(raw) ~= LOADING then return end
  for at = HEADER + 1, #raw, PROCESS do
    redis.pcall('PUBLISH', 'larder:wake:' .. string.sub(raw, at, at + PROCESS - 1), key)
  end
end

-- Returns the milliseconds until a key expires. A key without a TTL counts as one that expires now.
local function remaining(key)
  local left = redis.call('PTTL', key)
  if left < 0 then return 0 end
  return left
end

local function put(key, raw, ttl) redis.call('SET', key, raw, 'PX', math.max(1, ttl)) end

-- Runs a command on a key that is no row's. A key of another type was not written by larder: it is removed, and the command runs
-- again.
local function typed_call(command, key, ...)
  local reply = redis.pcall(command, key, ...)
  if type(reply) == 'table' and reply.err and string.sub(reply.err, 1, 9) == 'WRONGTYPE' then
    redis.call('DEL', key)
    reply = redis.pcall(command, key, ...)
  end
  return reply
end

-- Returns a number that larder counts, or 0 for anything else.
local MAX_NUMBER = 9007199254740992
local function count_of(text)
  local number = tonumber(text)
  if not number or number < 0 or number > MAX_NUMBER or number ~= math.floor(number) then return 0 end
  return number
end

-- Returns the position of a token in the list after the header, or nil.
local function find_token(raw, wanted)
  for at = HEADER + 1, #raw, TOKEN do
    if string.sub(raw, at, at + TOKEN - 1) == wanted then return at end
  end
end

-- Returns the beginning of an entry. If it is large, the caller reads the rest over another connection.
local function beginning(raw) return string.sub(raw, 1, LARGE_ENTRY) end

local function flags(raw) return string.byte(raw, 4) end

local function with_flags(raw, value)
  return string.sub(raw, 1, 3) .. string.char(value) .. string.sub(raw, 5)
end

-- Lua 5.1 has no bit operations.
local function has(value, bit) return math.floor(value / bit) % 2 == 1 end

local function add(value, bit)
  if has(value, bit) then return value end
  return value + bit
end

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
      local listed = size <= large or typed_call('ZADD', log .. ':large', last, format('%d:%d', last, size))
      local added = type(listed) == 'table' and listed
        or pcall('XADD', log, format('0-%d', last), 'k', key, 'e', entry, 'a', now)
      if type(added) == 'table' and added.err then
        -- The log has an entry that was not written here, or is none. Another incarnation has a log of its own.
        is_stuck = is_stuck or string.find(added.err, 'equal or smaller', 1, true)
          or string.find(added.err, 'last possible ID', 1, true) or string.sub(added.err, 1, 9) == 'WRONGTYPE'
        if size > large and listed ~= added then pcall('ZREM', log .. ':large', format('%d:%d', last, size)) end
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
