-- Reads the event stream of one bucket after a cursor.
--
-- KEYS[1] the stream
-- ARGV[1] the id of the entry to read after, or '' to learn the end only
-- ARGV[2] how many entries to read at most
--
-- Answers { the id to go on after, 1 where entries were missed, 1 where there may be more, the events }.
--
-- A stream only ever loses its beginning, or everything. So where the entry that the cursor names is
-- still there, all after it are. That takes an entry to name: a stream without any gets one first.
local stream, cursor, limit = KEYS[1], ARGV[1], tonumber(ARGV[2])
if redis.call('XLEN', stream) == 0 then
  redis.call('XADD', stream, '*', 'begin', '')
end
if cursor == '' then
  local newest = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1]
  return { newest[1], 0, 0, {} }
end

local entries = redis.call('XRANGE', stream, cursor, '+', 'COUNT', limit + 1)
local gap = 0
if entries[1] and entries[1][1] == cursor then
  table.remove(entries, 1)
else
  gap = 1
  entries = redis.call('XRANGE', stream, '-', '+', 'COUNT', limit)
end
local events = {}
for _, entry in ipairs(entries) do
  cursor = entry[1]
  if entry[2][1] == 'e' then
    events[#events + 1] = entry[2][2]
  end
end
return { cursor, gap, #entries == limit and 1 or 0, events }
