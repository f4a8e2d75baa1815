-- A page of an index, newest first.
--
-- KEYS: 1 the index by place. ARGV: 1 the highest place, 2 how many, 3 what the keys of records begin with.
-- Returns {next place or '', {id, version, place, end, content}, ..}. What has expired is passed over:
-- also a record that was made anew since, and is in this index no more.

local limit = tonumber(ARGV[2])
local rows = redis.call('ZREVRANGEBYSCORE', KEYS[1], ARGV[1], '-inf', 'WITHSCORES', 'LIMIT', 0, limit + 1)
local found = {''}
if #rows > 2 * limit then
  found[1] = string.format('%.0f', tonumber(rows[2 * limit]))
end
for i = 1, math.min(#rows, 2 * limit), 2 do
  local record = redis.call('HMGET', ARGV[3] .. rows[i], 'v', 'b', 'u', 'd')
  if record[1] and tonumber(record[2]) == tonumber(rows[i + 1]) then
    found[#found + 1] = {rows[i], record[1], record[2], record[3], record[4]}
  end
end
return found
