-- Commits to a register: compares, sets and appends events in one atomic step.
--
-- KEYS[1] the register, KEYS[2] the event stream of its bucket (the same hash tag)
-- ARGV[1] the expected revision (8 bytes), or '' if the register must not exist
-- ARGV[2] the new value, which begins with its revision
-- ARGV[3] when the register expires, in milliseconds since the epoch
-- ARGV[4] the approximate number of events that the stream keeps
-- ARGV[5] how long the stream keeps events, approximately, in milliseconds
-- ARGV[6] whether to announce events on the channel with the name of the stream: '1', or ''
-- ARGV[7..] events
--
-- Returns the revision of ARGV[2] if the register now has that value, otherwise { the current value }, with nil if
-- there is none.
local current = redis.call('GET', KEYS[1])
if current == ARGV[2] then
  -- The same commit, repeated by a client that missed the first response. It is written again, because WAIT waits only
  -- for what its own connection has written.
  redis.call('SET', KEYS[1], ARGV[2], 'PXAT', ARGV[3])
  return string.sub(ARGV[2], 1, 8)
end
local revision = current and string.sub(current, 1, 8)
local expected = ARGV[1] ~= '' and ARGV[1]
if revision ~= expected then
  return { current }
end
-- The time is read before the events are appended, so that none of them counts as old.
local time = #ARGV >= 7 and redis.call('TIME')
-- Events are appended first: a failed script is not rolled back, and of the two writes only this one can fail.
for i = 7, #ARGV do
  redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[4], '*', 'e', ARGV[i])
end
-- Old entries are trimmed next, except for the newest of them, which the cursor of an up-to-date reader may name. This
-- follows the XADD, because Redis checks its memory limit only before the first write of a script.
if time then
  local recent = string.format('%.0f', math.max(0, time[1] * 1000 + math.floor(time[2] / 1000) - ARGV[5]))
  -- The first query starts at the oldest entry: from the newest, Redis would visit every entry to find that none is old.
  if redis.call('XRANGE', KEYS[2], '-', recent, 'COUNT', 1)[1] then
    local old = redis.call('XREVRANGE', KEYS[2], recent, '-', 'COUNT', 1)[1]
    redis.call('XTRIM', KEYS[2], 'MINID', '~', old[1])
  end
end
redis.call('SET', KEYS[1], ARGV[2], 'PXAT', ARGV[3])
if time and ARGV[6] ~= '' then
  -- Readers find events without it, only later: a user who may not publish can still commit.
  redis.pcall('SPUBLISH', KEYS[2], '')
end
return string.sub(ARGV[2], 1, 8)
