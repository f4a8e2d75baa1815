-- Everything at one revision.
--
-- KEYS: 1 revision (hash: epoch, n), then the hashes of all kinds.
-- Returns {epoch, n, {{id, document, id, document, ..}, ..}}.

local revision = redis.call('HMGET', KEYS[1], 'epoch', 'n')
local kinds = {}
for i = 2, #KEYS do
  kinds[i - 1] = redis.call('HGETALL', KEYS[i])
end
return {revision[1] or '', revision[2] or '0', kinds}
