-- Reads the event stream of one bucket after a cursor.
--
-- KEYS[1] the stream
-- ARGV[1] the id to read after, or '' to learn the end only
-- ARGV[2] how many entries the stream had ever seen at that id
-- ARGV[3] how many entries to read at most
--
-- Answers { the id to go on after, the count to go on with, 1 where entries were missed, the events }.
--
-- The count is what shows a gap: trimming by length leaves no other trace (max-deleted-entry-id does
-- not move), and a stream that was lost and made anew can only disagree with it.
local last, added, length = '0-0', 0, 0
if redis.call('EXISTS', KEYS[1]) == 1 then
  local info = redis.call('XINFO', 'STREAM', KEYS[1])
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then last = info[i + 1] end
    if info[i] == 'entries-added' then added = info[i + 1] end
    if info[i] == 'length' then length = info[i + 1] end
  end
end
if ARGV[1] == '' then
  return { last, added, 0, {} }
end

local limit = tonumber(ARGV[3])
local function read(after)
  local events = {}
  for _, entry in ipairs(redis.call('XRANGE', KEYS[1], '(' .. after, '+', 'COUNT', limit)) do
    after = entry[1]
    events[#events + 1] = entry[2][2]
  end
  return after, events
end

local count = tonumber(ARGV[2])
local after, events = read(ARGV[1])
local whole = count >= added - length and count <= added
if whole and #events < limit then
  whole = count + #events == added
end
if whole then
  return { after, count + #events, 0, events }
end
-- Missed some: begin again with all that is left.
after, events = read('0-0')
return { after, added - length + #events, 1, events }
