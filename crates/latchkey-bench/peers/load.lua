-- The load on the peers that speak HTTP, for wrk. Each thread has one connection, so that a response belongs to the latest
-- request. Each line of the file has a token and a text that the right answer contains.
--
--   wrk ... -s load.lua URL -- FILE THREADS [INTROSPECT]

local threads = {}

function setup(thread)
  thread:set("number", #threads)
  table.insert(threads, thread)
end

function init(arguments)
  file = assert(io.open(arguments[1]))
  introspect = arguments[3]
  -- The threads begin at different lines.
  local size = file:seek("end")
  file:seek("set", math.floor(size * number / tonumber(arguments[2])))
  if number > 0 then file:read("*l") end
  right, wrong, first_wrong = 0, 0, ""
end

local function next_line()
  local line = file:read("*l")
  if not line then
    file:seek("set", 0)
    line = file:read("*l")
  end
  return line
end

function request()
  local token, text = next_line():match("^(%S+) (%S+)$")
  expected = text
  if introspect then
    return wrk.format("POST", nil, {
      ["Authorization"] = "Basic " .. introspect,
      ["Content-Type"] = "application/x-www-form-urlencoded",
    }, "token=" .. token)
  end
  return wrk.format("GET", nil, { ["Authorization"] = "Bearer " .. token })
end

function response(status, headers, body)
  if status == 200 and body:find(expected, 1, true) then
    right = right + 1
  else
    wrong = wrong + 1
    if first_wrong == "" then first_wrong = status .. " " .. body end
  end
end

function done(summary, latency, requests)
  local right, wrong, first_wrong = 0, 0, ""
  for _, thread in ipairs(threads) do
    right = right + thread:get("right")
    wrong = wrong + thread:get("wrong")
    if first_wrong == "" then first_wrong = thread:get("first_wrong") end
  end
  local errors = summary.errors
  -- A connection that breaks or a timeout; answers with a wrong status are counted above.
  local failed = errors.connect + errors.read + errors.write + errors.timeout
  print(string.format("RESULT %d %d %d %d %s", summary.duration, right, wrong, failed, first_wrong))
end
