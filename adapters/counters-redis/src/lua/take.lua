-- Takes a slice of a counter. KEYS[1]: the counter. ARGV: holder, limit, needs, milliseconds to keep it.
-- Returns: the holder's amount, spent in all, held in all, held for jobs, other holders; as text, since large numbers would
-- be rounded. Jobs hold what they took and want no part of the rest, so they are not counted among the others.
local holder, limit, needs = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local spent, held, jobs, others = 0, 0, 0, 0
local entries = redis.call('HGETALL', KEYS[1])
for i = 1, #entries, 2 do
  local name, value = entries[i], tonumber(entries[i + 1])
  local what, who = string.sub(name, 1, 2), string.sub(name, 3)
  local job = string.sub(who, 1, 4) == 'job/'
  if what == 'a:' then
    held = held + value
    if job then jobs = jobs + value
    elseif who ~= holder then others = others + 1 end
  elseif what == 'p:' then
    held = held - value
    if job then jobs = jobs - value end
    spent = spent + value
  elseif name == 'done' then
    spent = spent + value
  end
end
local left = limit - spent - held
local take = 0
if needs > 0 and left > 0 then
  local fair = math.floor(left / (others + 1))
  if others == 0 or left < 2 * (others + 1) then take = left
  elseif fair > needs then take = fair
  else take = math.min(needs, left) end
end
if string.sub(holder, 1, 4) == 'job/' then jobs = jobs + take end
redis.call('HINCRBY', KEYS[1], 'a:' .. holder, string.format('%.0f', take))
redis.call('HINCRBY', KEYS[1], 'p:' .. holder, 0)
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return { redis.call('HGET', KEYS[1], 'a:' .. holder), string.format('%.0f', spent), string.format('%.0f', held + take),
  string.format('%.0f', jobs), tostring(others) }
