-- Takes a lease, or renews it for its holder.
--
-- KEYS: 1 the lease ("NUMBER HOLDER", with a life time), 2 the last numbers (hash by lease).
-- ARGV: 1 holder, 2 milliseconds, 3 name of the lease.
-- Returns the fencing number, or nil while another one holds it.

local held = redis.call('GET', KEYS[1])
if held then
  local number, holder = string.match(held, '^(%d+) (.*)$')
  if holder ~= ARGV[1] then
    return false
  end
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  return number
end
-- Milliseconds, so that numbers also grow behind those of a store that was lost.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local last = tonumber(redis.call('HGET', KEYS[2], ARGV[3]) or '0')
local number = string.format('%.0f', math.max(now, last + 1))
redis.call('HSET', KEYS[2], ARGV[3], number)
redis.call('SET', KEYS[1], number .. ' ' .. ARGV[1], 'PX', ARGV[2])
return number
