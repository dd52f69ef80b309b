-- Ends a slice: what was used is done, the rest is free. KEYS[1]: the counter. ARGV: holder, used in all.
if redis.call('HEXISTS', KEYS[1], 'a:' .. ARGV[1]) == 0 then return 'OK' end
local known = tonumber(redis.call('HGET', KEYS[1], 'p:' .. ARGV[1]) or '0')
local used = math.max(known, tonumber(ARGV[2]))
redis.call('HDEL', KEYS[1], 'a:' .. ARGV[1], 'p:' .. ARGV[1])
redis.call('HINCRBY', KEYS[1], 'done', string.format('%.0f', used))
return 'OK'
