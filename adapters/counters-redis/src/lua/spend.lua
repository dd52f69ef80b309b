-- Says how much of its slice a holder has used in all. KEYS[1]: the counter. ARGV: holder, used in all.
local known = tonumber(redis.call('HGET', KEYS[1], 'p:' .. ARGV[1]) or '0')
-- A late word says less than is known.
if tonumber(ARGV[2]) > known then redis.call('HSET', KEYS[1], 'p:' .. ARGV[1], ARGV[2]) end
return 'OK'
