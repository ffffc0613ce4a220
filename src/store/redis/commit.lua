-- One commit: compare, set, append, in one atomic step.
--
-- KEYS[1] the register, KEYS[2] the event stream of its bucket (the same hash tag)
-- ARGV[1] the 8 bytes of the revision that must stand there, or '' where nothing must
-- ARGV[2] the new value, which begins with its own revision
-- ARGV[3] when to forget it, in milliseconds since the epoch
-- ARGV[4] how many events the stream keeps, about
-- ARGV[5] how long the stream keeps them, about, in milliseconds
-- ARGV[6..] events
--
-- Answers the revision of ARGV[2] where that stands there now, otherwise { what does }, nil for nothing.
local stands = redis.call('GET', KEYS[1])
if stands == ARGV[2] then
  return string.sub(ARGV[2], 1, 8) -- the same commit, repeated by a client that missed our first answer
end
local revision = stands and string.sub(stands, 1, 8)
local expected = ARGV[1] ~= '' and ARGV[1]
if revision ~= expected then
  return { stands }
end
-- The events first: a script that fails is not undone, and of the two only this can fail.
for i = 6, #ARGV do
  redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[4], '*', 'e', ARGV[i])
end
-- Then what is too old goes, except for the newest of it: that is where a reader stands who has missed
-- nothing. After the XADD, because only the first write of a script is refused for want of memory.
if #ARGV >= 6 then
  local time = redis.call('TIME')
  local recent = string.format('%.0f', math.max(0, time[1] * 1000 + math.floor(time[2] / 1000) - ARGV[5]))
  -- Asked from the beginning first: from the end, Redis would look at every entry to find that none is old.
  if redis.call('XRANGE', KEYS[2], '-', recent, 'COUNT', 1)[1] then
    local old = redis.call('XREVRANGE', KEYS[2], recent, '-', 'COUNT', 1)[1]
    redis.call('XTRIM', KEYS[2], 'MINID', '~', old[1])
  end
end
redis.call('SET', KEYS[1], ARGV[2], 'PXAT', ARGV[3])
return string.sub(ARGV[2], 1, 8)
