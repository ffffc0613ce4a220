-- Makes commits without events to many registers, each for itself: compares and sets.
--
-- KEYS[i] the register, each once
-- ARGV[3 * i - 2] its expected revision (8 bytes), ARGV[3 * i - 1] the new value, ARGV[3 * i] when it expires: as those of
-- commit.lua
--
-- Returns for each what commit.lua returns.
local current = redis.call('MGET', unpack(KEYS))
local results = {}
for i, key in ipairs(KEYS) do
  local value = ARGV[3 * i - 1]
  if current[i] == value or (current[i] and string.sub(current[i], 1, 8) == ARGV[3 * i - 2]) then
    redis.call('SET', key, value, 'PXAT', ARGV[3 * i])
    results[i] = string.sub(value, 1, 8)
  else
    results[i] = { current[i] }
  end
end
return results
