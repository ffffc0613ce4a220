-- Reads the event stream of one bucket after a cursor.
--
-- KEYS[1] the stream
-- ARGV[1] the id of the entry to read after, or '' to return only the id of the newest entry
-- ARGV[2] the most entries to read
--
-- Returns { the id to continue after, 1 if entries were missed, 1 if there may be more, the events }.
--
-- A stream only ever loses its oldest entries, or all of them. So if the entry that the cursor names still exists, all
-- entries after it do. An empty stream has no entry to name, so it gets one first.
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
