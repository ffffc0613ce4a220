-- One commit: compare, set, append, in one atomic step.
--
-- KEYS[1] the register, KEYS[2] the event stream of its bucket (the same hash tag)
-- ARGV[1] the 8 bytes of the revision that must stand there, or '' where nothing must
-- ARGV[2] the new value, which begins with its own revision
-- ARGV[3] when to forget it, in milliseconds since the epoch
-- ARGV[4] how many events the stream keeps, about
-- ARGV[5..] events
--
-- Answers nothing where ARGV[2] stands there now, otherwise { what does }, nil for nothing.
local stands = redis.call('GET', KEYS[1])
if stands == ARGV[2] then
  return nil -- the same commit, repeated by a client that missed our first answer
end
local revision = stands and string.sub(stands, 1, 8)
local expected = ARGV[1] ~= '' and ARGV[1]
if revision ~= expected then
  return { stands }
end
-- The events first: a script that fails is not undone, and of the two only this can fail.
for i = 5, #ARGV do
  redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[4], '*', 'e', ARGV[i])
end
redis.call('SET', KEYS[1], ARGV[2], 'PXAT', ARGV[3])
return nil
