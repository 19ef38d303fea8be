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
