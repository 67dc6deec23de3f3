-- Sends the payloads of a folder in turn; one line of JSON at the end. See wrk.py.
--
-- BENCH_TRACES: nothing, or the first half of the trace ids: then each request has another
-- traceparent, with a count at the end of the trace id. The count is written into the bytes
-- of the request, because formatting and joining strings costs wrk more.

local ffi = require("ffi")
local traces = os.getenv("BENCH_TRACES")
local DIGITS = "0123456789abcdef" -- also where the count goes, before there is one
local digits = ffi.new("const char[17]", DIGITS)

local requests, turn = {}, 0
local buffers, last, count = {}, 0, 0 -- bytes of each request, and where its count ends

function init()
  local headers = {
    ["Content-Type"] = os.getenv("BENCH_CONTENT"),
    ["Accept"] = os.getenv("BENCH_ACCEPT"),
  }
  local token = os.getenv("BENCH_TOKEN")
  if token ~= "" then headers["Authorization"] = "Bearer " .. token end
  if traces ~= "" then
    headers["traceparent"] = "00-" .. traces .. DIGITS .. "-" .. traces .. "-01"
  end
  while true do
    local file = io.open(os.getenv("BENCH_JOB") .. "/" .. #requests + 1 .. ".request", "rb")
    if not file then break end
    local whole = wrk.format("POST", nil, headers, file:read("*a"))
    file:close()
    table.insert(requests, whole)
    if traces ~= "" then
      local buffer = ffi.new("char[?]", #whole)
      ffi.copy(buffer, whole, #whole)
      last = select(2, whole:find(DIGITS, 1, true)) - 1
      table.insert(buffers, buffer)
    end
  end
end

function request()
  turn = turn % #requests + 1
  return requests[turn]
end

local function traced()
  turn = turn % #requests + 1
  count = count + 1
  local buffer, rest = buffers[turn], count
  for place = last, last - 7, -1 do
    buffer[place] = digits[bit.band(rest, 15)]
    rest = bit.rshift(rest, 4)
  end
  return ffi.string(buffer, #requests[turn])
end

if traces ~= "" then request = traced end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '{"requests":%d,"elapsed_us":%d,"bytes":%.0f,"errors":%d,"bad_status":%d,'
      .. '"p50":%.0f,"p99":%.0f,"max":%.0f}\n',
    summary.requests, summary.duration, summary.bytes,
    errors.connect + errors.read + errors.write + errors.timeout, errors.status,
    latency:percentile(50), latency:percentile(99), latency.max))
end
