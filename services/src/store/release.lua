-- Gives a lease back, if this holder has it.
--
-- KEYS: 1 the lease ("NUMBER HOLDER"). ARGV: 1 holder.

local held = redis.call('GET', KEYS[1])
if held and string.match(held, '^%d+ (.*)$') == ARGV[1] then
  redis.call('DEL', KEYS[1])
end
return redis.status_reply('OK')
