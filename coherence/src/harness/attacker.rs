//! Somebody without the secret keys, who writes into the Redis of a run while it goes on.
//!
//! He changes rows, absences and queued writes, takes their seals away, copies them to other keys, and appends writes to queues. He
//! leaves leases and intents alone, and brings nothing back that stood at the same key before: seals do not prevent that.
//!
//! Not here: the keys ([`sealed`] gives them to the caches of workers), and the judges, who must find nothing of what he wrote.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use larder::{CacheBuilder, SecretKey};

use crate::random::Random;

/// The key of a run. The attacker does not use it.
const KEY: SecretKey = SecretKey::new(*b"what nobody else is to know here");
/// The pause between two attacks.
const PAUSE: Duration = Duration::from_millis(8);
/// How many keys an attack looks at, until it finds one that it can use.
const TRIES: u64 = 8;
/// Of a thousand attacks, how many are made on a queue, if they come upon one. Each makes its queue begin another incarnation.
const ON_QUEUES: u64 = 60;

/// One attack. ARGV: how many keys are tried, which attack, a number, 1 if a queue may be attacked. The entry is at a key as long as
/// the script runs, so that it is never taken for the one of before.
const ATTACK: &str = r"
local tries, attack, number, queues = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4] == '1'
local HEADER, SEAL, POSITION = 44, 16, 24
local VALUE, NEGATIVE, PENDING = 2, 3, 5
local COPIES = 'copies of the attacker'

local function changed(raw, from)
  if #raw <= from then return raw end
  local at = from + 1 + number % (#raw - from)
  local byte = (string.byte(raw, at) + 1 + number % 3) % 256
  return string.sub(raw, 1, at - 1) .. string.char(byte) .. string.sub(raw, at + 1)
end

local function is_entry(raw)
  if not raw or #raw < HEADER + SEAL or string.byte(raw, 1) ~= 0xCA or string.byte(raw, 2) ~= 2 then return false end
  local kind = string.byte(raw, 3)
  return kind == VALUE or kind == NEGATIVE or kind == PENDING
end

local function without_seal(raw)
  return string.sub(raw, 1, 1) .. '\1' .. string.sub(raw, 3, 25) .. '\0\0\0' .. string.sub(raw, 29, HEADER) .. string.sub(raw, HEADER + SEAL + 1)
end

local function forged(key, raw)
  local kind = string.byte(raw, 3)
  local body = HEADER + SEAL + (kind == PENDING and POSITION or 0)
  if attack == 0 then return changed(raw, body) end
  if attack == 1 then return changed(without_seal(raw), body - SEAL) end
  if attack == 2 then return without_seal(string.sub(raw, 1, 2) .. string.char(NEGATIVE, 0) .. string.sub(raw, 5, HEADER + SEAL)) end
  if attack == 3 then
    local other = redis.call('RANDOMKEY')
    local copy = redis.call('TYPE', other).ok == 'string' and other ~= key and redis.call('GET', other)
    -- A copy of a copy may be what stood at this key before.
    if not is_entry(copy) or redis.call('HGET', COPIES, other) == copy then return nil end
    redis.call('HSET', COPIES, key, copy)
    return copy
  end
  if string.find(key, '^{[^}]*:p%x%x}') and kind == VALUE then
    return string.sub(raw, 1, 2) .. string.char(PENDING, 0) .. string.sub(raw, 5, HEADER + SEAL)
      .. string.rep('\1', POSITION) .. changed(string.sub(raw, HEADER + SEAL + 1), 0)
  end
end

for _ = 1, tries do
  local key = redis.call('RANDOMKEY')
  local type = key and redis.call('TYPE', key).ok
  if type == 'string' then
    local raw = redis.call('GET', key)
    local other = is_entry(raw) and forged(key, raw)
    if other and other ~= raw then
      redis.call('SET', key, other, 'KEEPTTL')
      return 1
    end
  elseif type == 'stream' and queues then
    local last = redis.call('XREVRANGE', key, '+', '-', 'COUNT', 1)[1]
    local row, raw
    for at = 1, last and #last[2] or 0, 2 do
      if last[2][at] == 'k' then row = last[2][at + 1] end
      if last[2][at] == 'e' then raw = last[2][at + 1] end
    end
    -- The id in a deletion is not sealed, because its key contains it: another one would be the same deletion again.
    if row and is_entry(raw) and math.floor(string.byte(raw, 4) / 4) % 2 == 0 then
      local place = tonumber(string.match(last[1], '^0%-(%d+)$')) + 1
      local entry = string.sub(raw, 1, HEADER + SEAL + 16) .. struct.pack('>I8', place)
        .. changed(string.sub(raw, HEADER + SEAL + POSITION + 1), 0)
      if attack == 1 then entry = without_seal(entry) end
      redis.call('XADD', key, string.format('0-%d', place), 'k', row, 'e', entry, 'a', '0')
      return 1
    end
  end
end
return 0
";

/// How many attacks the script knows.
const ATTACKS: u64 = 5;

/// Gives a cache the keys of a run that is attacked. Without encryption, what the attacker changes can be read where seals are not
/// compared.
pub fn sealed(builder: CacheBuilder, encrypted: bool) -> CacheBuilder {
    match encrypted {
        true => builder.encrypt([KEY]).compress_above(16),
        false => builder.authenticate([KEY]),
    }
}

/// An attacker at work.
pub struct Attacker {
    task: tokio::task::JoinHandle<()>,
    count: Arc<AtomicU64>,
}

impl Attacker {
    /// Begins to attack the Redis at a URL, if there is one.
    #[must_use]
    pub fn start(url: Option<String>, seed: u64) -> Self {
        let count = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&count);
        let task = tokio::spawn(async move {
            let Some(url) = url else { return };
            let client = redis::Client::open(url).expect("the address is one of Redis");
            let mut random = Random::seeded(seed);
            loop {
                // While it is away there is nothing to attack.
                let _away: redis::RedisResult<()> = async {
                    let mut connection = client.get_multiplexed_async_connection().await?;
                    loop {
                        tokio::time::sleep(PAUSE).await;
                        let mut script = redis::cmd("EVAL");
                        script.arg(ATTACK).arg(0).arg(TRIES);
                        script.arg(random.below(ATTACKS)).arg(random.below(1 << 30));
                        script.arg(u8::from(random.per_mille(ON_QUEUES)));
                        let done: u64 = script.query_async(&mut connection).await?;
                        counted.fetch_add(done, Ordering::Relaxed);
                    }
                }
                .await;
                tokio::time::sleep(PAUSE).await;
            }
        });
        Self { task, count }
    }

    /// Ends the attacks, and says how many there were.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.task.abort();
        self.count.load(Ordering::Relaxed)
    }
}
