-- Gives back of a slice what is not used, at most the amount. KEYS[1]: the counter. ARGV: holder, amount.
local amount = tonumber(redis.call('HGET', KEYS[1], 'a:' .. ARGV[1]) or '0')
local used = tonumber(redis.call('HGET', KEYS[1], 'p:' .. ARGV[1]) or '0')
local back = math.min(tonumber(ARGV[2]), amount - used)
if back > 0 then redis.call('HINCRBY', KEYS[1], 'a:' .. ARGV[1], string.format('%.0f', -back)) end
return 'OK'
