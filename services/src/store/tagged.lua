-- Reads the entries of a stream that have a tag.
--
-- KEYS: 1 the stream, 2 the sorted set of the tag.
-- ARGV: 1 'forward' or 'backward', 2 and 3 the first and the last padded id, 4 how many.
-- Returns what XRANGE returns. Ids of entries that retention has removed are passed over.

local found = {}
local limit = tonumber(ARGV[4])
local low, high = '[' .. ARGV[2], '[' .. ARGV[3]
while #found < limit do
  local page
  if ARGV[1] == 'forward' then
    page = redis.call('ZRANGEBYLEX', KEYS[2], low, high, 'LIMIT', 0, limit)
  else
    page = redis.call('ZREVRANGEBYLEX', KEYS[2], high, low, 'LIMIT', 0, limit)
  end
  for _, member in ipairs(page) do
    local t, s = string.match(member, '^0*(%d+)-0*(%d+)$')
    local entry = redis.call('XRANGE', KEYS[1], t .. '-' .. s, t .. '-' .. s)[1]
    if entry and #found < limit then
      found[#found + 1] = entry
    end
    if ARGV[1] == 'forward' then
      low = '(' .. member
    else
      high = '(' .. member
    end
  end
  if #page < limit then
    break
  end
end
return found
