-- Takes a holder's share of each rate. KEYS: the rates. ARGV: holder, then for each rate: limit, wants, milliseconds to keep it.
-- Returns for each rate: the holder's share, other holders; as text.
-- A field is a holder; its value says share, wants and until when it is good, by the server's clock.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local holder, answer = ARGV[1], {}
for at, key in ipairs(KEYS) do
  local limit, wants, keep = tonumber(ARGV[3 * at - 1]), tonumber(ARGV[3 * at]), tonumber(ARGV[3 * at + 1])
  local entries, all, taken = redis.call('HGETALL', key), {}, 0
  for i = 1, #entries, 2 do
    if entries[i] ~= holder then
      local share, want, good = string.match(entries[i + 1], '^(%d+) (%d+) (%d+)$')
      if tonumber(good) <= now then
        redis.call('HDEL', key, entries[i])
      else
        taken = taken + tonumber(share)
        all[#all + 1] = { who = entries[i], wants = math.min(tonumber(want), limit) }
      end
    end
  end
  local others, share = #all, 0
  if wants <= 0 then
    redis.call('HDEL', key, holder)
  else
    all[#all + 1] = { who = holder, wants = math.min(wants, limit) }
    table.sort(all, function(a, b) return a.wants < b.wants or (a.wants == b.wants and a.who < b.who) end)
    -- Who wants less than an equal part gets what it wants; the others share what that leaves.
    local left = limit
    for i, one in ipairs(all) do
      one.part = math.min(one.wants, math.floor(left / (#all - i + 1)))
      left = left - one.part
    end
    -- What nobody wants is divided, so that each has room for more.
    for i, one in ipairs(all) do
      local more = math.floor(left / (#all - i + 1))
      left = left - more
      if one.who == holder then share = one.part + more end
    end
    share = math.max(0, math.min(share, limit - taken))
    redis.call('HSET', key, holder, string.format('%.0f %.0f %.0f', share, wants, now + keep))
    redis.call('PEXPIRE', key, string.format('%.0f', keep))
  end
  answer[#answer + 1] = string.format('%.0f', share)
  answer[#answer + 1] = tostring(others)
end
return answer
