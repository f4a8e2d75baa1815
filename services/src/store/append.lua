-- Appends a batch of entries to a stream and trims it, in one step.
--
-- KEYS: 1 the stream, then one sorted set for each tag that occurs.
-- ARGV: 1 entries to keep, 2 milliseconds to keep them, then per entry: time, record, number of tags,
--       and the index of each tag's key.
-- An id's time is the entry's, but not before the last id's, and not behind this server's clock: see
-- EntryId::follow. Members of the sorted sets are padded ids with equal scores, ordered like the ids.

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local time, sequence = 0, 0
local info = redis.pcall('XINFO', 'STREAM', KEYS[1])
if not info.err then
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then
      local t, s = string.match(info[i + 1], '^(%d+)-(%d+)$')
      time, sequence = tonumber(t), tonumber(s)
    end
  end
end

-- This loop runs for every request that is logged: what need not be done for each entry is not.
local call, stream, count = redis.call, KEYS[1], #ARGV
local prefix = string.format('%.0f-', time)
local i = 3
while i <= count do
  local wanted = tonumber(ARGV[i])
  if wanted > now then
    wanted = now
  end
  if wanted > time then
    time, sequence = wanted, 0
    prefix = string.format('%.0f-', time)
  else
    sequence = sequence + 1
  end
  call('XADD', stream, prefix .. sequence, 'r', ARGV[i + 1])
  local tags = ARGV[i + 2]
  i = i + 3
  if tags ~= '0' then
    local member = string.format('%020.0f-%020.0f', time, sequence)
    for tag = i, i + tags - 1 do
      call('ZADD', KEYS[tonumber(ARGV[tag])], 0, member)
    end
    i = i + tags
  end
end

redis.call('XTRIM', KEYS[1], 'MAXLEN', '~', ARGV[1])
redis.call('XTRIM', KEYS[1], 'MINID', string.format('%.0f', math.max(now - tonumber(ARGV[2]), 0)))
if #KEYS > 1 then
  local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
  local bound = '+'
  if first then
    local t, s = string.match(first[1], '^(%d+)-(%d+)$')
    bound = string.format('(%020.0f-%020.0f', tonumber(t), tonumber(s))
  end
  for key = 2, #KEYS do
    redis.call('ZREMRANGEBYLEX', KEYS[key], '-', bound)
    -- A tag that nobody uses any more must not stay for ever.
    redis.call('PEXPIRE', KEYS[key], ARGV[2])
  end
end
return redis.status_reply('OK')
