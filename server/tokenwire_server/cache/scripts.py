"""What Redis does in one step, as Lua. All keys are under one hash tag; those of kept orders, whose names hold a number
that only Redis knows, are built from a base that is passed as a key."""

from typing import Final

__all__ = ["ACQUIRE", "ONE", "PAGE", "RELEASE", "RENEW", "SWAP", "TIDY"]

ACQUIRE: Final = """
-- KEYS: lock, fence. ARGV: owner, lease in ms.
-- An owner that asks once more lost the answer: it gets the lock again, with a new fence.
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
if not redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then
  return {0, math.max(0, redis.call('PTTL', KEYS[1]))}
end
if redis.call('EXISTS', KEYS[2]) == 0 then
  -- All data were lost: begin above every fence that was granted before that.
  local time = redis.call('TIME')
  redis.call('SET', KEYS[2], time[1] .. string.format('%06d', time[2]))
end
return {redis.call('INCR', KEYS[2]), tonumber(ARGV[2])}
"""

RENEW: Final = """
-- KEYS: lock. ARGV: owner, lease in ms.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""

RELEASE: Final = """
-- KEYS: lock. ARGV: owner.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
"""

SWAP: Final = """
-- KEYS: fence, meta, kept, base of kept orders; for each hash, and each order that changed: what there is, and that
-- which is staged.
-- ARGV: fence, generation that what is not given is of ('' if all is), ms that orders are kept, places kept at most,
-- tokens; for each of them: the name of the order, HASH, or NONE for a hash of which nothing is left.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 'FENCED' end
local before = redis.call('HGET', KEYS[2], 'generation')
if ARGV[2] ~= '' and before ~= ARGV[2] then return 'BASE' end
for i = 6, #KEYS, 2 do
  if ARGV[3 + i / 2] ~= 'NONE' and redis.call('EXISTS', KEYS[i]) == 0 then return 'STAGING' end
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
-- The first number is above all of before that were lost or removed.
local generation = time[1] .. string.format('%06d', time[2])
if before then generation = string.format('%.0f', before + 1) end
for i = 5, #KEYS, 2 do
  local sort = ARGV[3 + (i + 1) / 2]
  local used = redis.call('HGET', KEYS[2], 'used:' .. sort)
  local since = redis.call('HGET', KEYS[2], 'since:' .. sort)
  if used and since and now - used <= tonumber(ARGV[3]) and redis.call('EXISTS', KEYS[i]) == 1 then
    local kept = KEYS[4] .. ':' .. since .. ':' .. sort
    redis.call('RENAME', KEYS[i], kept)
    redis.call('PEXPIRE', kept, ARGV[3])
    redis.call('ZADD', KEYS[3], used, kept)
  else
    redis.call('UNLINK', KEYS[i])
  end
  if sort ~= 'NONE' then
    redis.call('PERSIST', KEYS[i + 1])
    redis.call('RENAME', KEYS[i + 1], KEYS[i])
  end
  if sort ~= 'NONE' and sort ~= 'HASH' then
    redis.call('HDEL', KEYS[2], 'used:' .. sort)
    redis.call('HSET', KEYS[2], 'since:' .. sort, generation)
  end
end
redis.call('HSET', KEYS[2], 'generation', generation, 'published_ms', string.format('%.0f', now), 'tokens', ARGV[5])
redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', now - ARGV[3])
local most = math.max(1, math.floor(ARGV[4] / ARGV[5]))
while redis.call('ZCARD', KEYS[3]) > most do
  redis.call('UNLINK', redis.call('ZPOPMIN', KEYS[3])[1])
end
return generation
"""

PAGE: Final = """
-- KEYS: meta, data, set of the order, kept, base of kept orders.
-- ARGV: name of the order, its number ('' for the newest), place, count, 1 if the natural order is descending,
-- 1 if it is reversed, score that only tokens with a value exceed, ms that orders are kept.
local since = redis.call('HGET', KEYS[1], 'since:' .. ARGV[1])
local key, number = KEYS[3], ARGV[2]
if number == '' or number == since then
  if not since or redis.call('EXISTS', key) == 0 then return {} end
  number = since
else
  key = KEYS[5] .. ':' .. number .. ':' .. ARGV[1]
  if redis.call('EXISTS', key) == 0 then return {'EXPIRED'} end
end
local place, count = tonumber(ARGV[3]), tonumber(ARGV[4])
local total = redis.call('ZCARD', key)
local members = {}
local function take(first, stop, backwards)
  if first >= stop then return end
  local found
  if ARGV[5] == '1' then
    found = redis.call('ZREVRANGE', key, first, stop - 1)
  else
    found = redis.call('ZRANGE', key, first, stop - 1)
  end
  if backwards then
    for i = #found, 1, -1 do members[#members + 1] = found[i] end
  else
    for i = 1, #found do members[#members + 1] = found[i] end
  end
end
if ARGV[6] == '1' then
  local priced = redis.call('ZCOUNT', key, ARGV[7], '+inf')
  local stop = math.max(0, priced - place)
  take(math.max(0, stop - count), stop, true)
  local rest = math.max(place, priced)
  take(rest, place + count, false)
else
  take(place, place + count, false)
end
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
if key ~= KEYS[3] then
  redis.call('PEXPIRE', key, ARGV[8])
  redis.call('ZADD', KEYS[4], now, key)
elseif place + count < total then
  redis.call('HSET', KEYS[1], 'used:' .. ARGV[1], now)
end
local rows = {}
if #members > 0 then rows = redis.call('HMGET', KEYS[2], unpack(members)) end
return {number, total, rows, now - redis.call('HGET', KEYS[1], 'published_ms')}
"""

ONE: Final = """
-- KEYS: meta, data, names, facts. ARGV: two addresses, then fields of names.
local published = redis.call('HGET', KEYS[1], 'published_ms')
if not published then return {} end
local address = ARGV[1]
if redis.call('HEXISTS', KEYS[2], address) == 0 then address = ARGV[2] end
for i = 3, #ARGV do
  if redis.call('HEXISTS', KEYS[2], address) == 1 then break end
  local meaning = redis.call('HGET', KEYS[3], ARGV[i])
  if meaning and string.sub(meaning, 1, 1) ~= '=' then return {meaning} end
  if meaning then address = string.sub(meaning, 2) end
end
local row = redis.call('HGET', KEYS[2], address)
if not row then return {''} end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
return {row, redis.call('HGET', KEYS[4], address), now - published}
"""

TIDY: Final = """
-- KEYS: meta, data, names, facts, kept, the set of each order.
-- ARGV: ms after which an index that nobody refreshed goes.
local published = redis.call('HGET', KEYS[1], 'published_ms')
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if not published or now - published <= tonumber(ARGV[1]) then return 0 end
local gone = 0
for i = 1, #KEYS do gone = gone + redis.call('UNLINK', KEYS[i]) end
return gone
"""
