-- A commit of records: all writes or none, in one step.
--
-- KEYS: 1 mark of this commit, 2 the last place that was given, then the record of each write.
-- ARGV: 1 what the keys of indexes begin with, 2 life of the mark in milliseconds, then per write:
--       operation, kind, id, expectation, life in milliseconds (or ''), JSON list of indexes, content.
-- A record is a hash: v version, b place, u end in milliseconds since 1970 ('' for none), i indexes, d content.
-- An index is two sorted sets of ids, by place (order) and by end (expiry). Which ones a write touches is
-- known here only, but all of them share the hash tag of KEYS.
-- Returns {'ok'} or {'conflict', number of the write that failed}.

local call, base = redis.call, ARGV[1]

-- The client repeats a commit whose answer was lost: its own writes must not fail it.
if call('EXISTS', KEYS[1]) == 1 then
  return {'ok'}
end

local STEP, changed = 7, false
for i = 3, #ARGV, STEP do
  local write = (i - 3) / STEP
  local version, expect = call('HGET', KEYS[write + 3], 'v'), ARGV[i + 3]
  if (expect == 'absent' and version)
    or (expect == 'present' and not version)
    or (expect ~= 'any' and expect ~= 'absent' and expect ~= 'present' and version ~= expect)
  then
    return {'conflict', tostring(write)}
  end
  changed = changed or ARGV[i] ~= 'check'
end
if not changed then
  return {'ok'}
end

local clock = call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

local function index(kind, name)
  local suffix = kind .. ':' .. name
  return base .. 'order:' .. suffix, base .. 'expiry:' .. suffix
end

local function names(indexes)
  local list = cjson.decode(indexes)
  -- The list of the whole kind.
  list[#list + 1] = ''
  return list
end

local function leave(key, kind, id)
  local indexes = call('HGET', key, 'i')
  if indexes then
    for _, name in ipairs(names(indexes)) do
      local order, expiry = index(kind, name)
      call('ZREM', order, id)
      call('ZREM', expiry, id)
    end
  end
end

-- An index ends with the last of its records.
local function extend(key, left, life)
  if life == '' then
    call('PERSIST', key)
  elseif left ~= -1 and left < tonumber(life) then
    call('PEXPIRE', key, life)
  end
end

local function enter(kind, id, place, life, ends, indexes)
  for _, name in ipairs(names(indexes)) do
    local order, expiry = index(kind, name)
    local dead = call('ZRANGEBYSCORE', expiry, '-inf', now, 'LIMIT', 0, 256)
    if #dead > 0 then
      call('ZREM', order, unpack(dead))
      call('ZREM', expiry, unpack(dead))
    end
    local left = call('PTTL', order)
    call('ZADD', order, place, id)
    extend(order, left, life)
    if ends == '' then
      -- From an earlier record of this name, which has expired and was not swept yet.
      call('ZREM', expiry, id)
    else
      left = call('PTTL', expiry)
      call('ZADD', expiry, ends, id)
      extend(expiry, left, life)
    end
  end
end

for i = 3, #ARGV, STEP do
  local operation, kind, id, life = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 4]
  local key = KEYS[(i - 3) / STEP + 3]
  if operation == 'put' then
    local old = call('HMGET', key, 'v', 'b')
    local place = old[2]
    if not place then
      -- Microseconds, and never the same twice: below 2^53 until the year 2255.
      local last = tonumber(call('GET', KEYS[2]) or '0')
      place = string.format('%.0f', math.max(clock[1] * 1000000 + clock[2], last + 1))
      call('SET', KEYS[2], place)
    end
    local ends = ''
    if life ~= '' then
      ends = string.format('%.0f', now + tonumber(life))
    end
    leave(key, kind, id)
    local version = string.format('%.0f', tonumber(old[1] or '0') + 1)
    call('HSET', key, 'v', version, 'b', place, 'u', ends, 'i', ARGV[i + 5], 'd', ARGV[i + 6])
    if ends == '' then
      call('PERSIST', key)
    else
      call('PEXPIREAT', key, ends)
    end
    enter(kind, id, place, life, ends, ARGV[i + 5])
  elseif operation == 'delete' then
    leave(key, kind, id)
    call('DEL', key)
  end
end
call('SET', KEYS[1], '', 'PX', ARGV[2])
return {'ok'}
