-- A commit: all writes or none, in one step.
--
-- KEYS: 1 revision (hash: epoch, n), 2 feed (stream whose ids are revisions), 3 mark of this commit,
--       4.. the hashes of all kinds, then the leases that are required.
-- ARGV: 1 an epoch for a store that has none, 2 length of the feed, 3 life of the mark in milliseconds,
--       then five per write: operation, index of its key, id (or fencing number), expectation, JSON.
-- A document is its version, a space, and JSON. One without version was written by hand: version 0.
-- Returns {'ok', epoch, n}, or {'conflict' | 'fenced', number of the write that failed}.

local function version_of(stored)
  return string.match(stored, '^(%d+) ') or '0'
end

-- The client repeats a commit whose answer was lost: it must not count twice.
local epoch, n = string.match(redis.call('GET', KEYS[3]) or '', '^(%S+) (%d+)$')
if epoch then
  return {'ok', epoch, n}
end

local changed = false
for i = 4, #ARGV, 5 do
  local operation, key, id, expect = ARGV[i], KEYS[tonumber(ARGV[i + 1])], ARGV[i + 2], ARGV[i + 3]
  local write = tostring((i - 4) / 5)
  if operation == 'fence' then
    local held = redis.call('GET', key)
    if not held or string.match(held, '^(%d+) ') ~= id then
      return {'fenced', write}
    end
  else
    local stored = redis.call('HGET', key, id)
    if (expect == 'absent' and stored)
      or (expect == 'present' and not stored)
      or (expect ~= 'any' and expect ~= 'absent' and expect ~= 'present'
        and (not stored or version_of(stored) ~= expect))
    then
      return {'conflict', write}
    end
    changed = changed or operation == 'put' or (operation == 'delete' and stored)
  end
end

local known = redis.call('HMGET', KEYS[1], 'epoch', 'n')
if not changed then
  return {'ok', known[1] or '', known[2] or '0'}
end

epoch = known[1]
if not epoch then
  epoch = ARGV[1]
  redis.call('HSET', KEYS[1], 'epoch', epoch)
end
n = string.format('%.0f', redis.call('HINCRBY', KEYS[1], 'n', 1))
local feed = {'XADD', KEYS[2], 'MAXLEN', '~', ARGV[2], n .. '-0', 'epoch', epoch}
if redis.pcall(unpack(feed)).err then
  -- The feed is of another epoch, or damaged: nobody depends on what is in it.
  redis.call('DEL', KEYS[2])
  redis.call(unpack(feed))
end

for i = 4, #ARGV, 5 do
  local operation, key, id = ARGV[i], KEYS[tonumber(ARGV[i + 1])], ARGV[i + 2]
  if operation == 'put' then
    local stored = redis.call('HGET', key, id)
    local version = stored and tonumber(version_of(stored)) or 0
    redis.call('HSET', key, id, string.format('%.0f ', version + 1) .. ARGV[i + 4])
  elseif operation == 'delete' then
    redis.call('HDEL', key, id)
  end
end
redis.call('SET', KEYS[3], epoch .. ' ' .. n, 'PX', ARGV[3])
return {'ok', epoch, n}
