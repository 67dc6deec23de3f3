-- Sends the payloads of a folder in turn; one line of JSON at the end. See driver.py.
--
-- BENCH_COMPARE: none, or how answers are compared: tolerance or length. wrk does not
-- say which request an answer belongs to, so a right one is that of any payload.
--
-- BENCH_TRACES: nothing, or the first half of the trace ids: then each request has another
-- traceparent, with a count at the end of the trace id. The count is written into the bytes
-- of the request, because formatting and joining strings costs wrk more.

local ffi = require("ffi")
local compare = os.getenv("BENCH_COMPARE")
local length = tonumber(os.getenv("BENCH_LENGTH"))
local traces = os.getenv("BENCH_TRACES")
local TOLERANCE = 1e-6
local DIGITS = "0123456789abcdef" -- also where the count goes, before there is one
local digits = ffi.new("const char[17]", DIGITS)

local threads = {}

function setup(thread)
  table.insert(threads, thread)
end

local function read(name)
  local file = io.open(os.getenv("BENCH_JOB") .. "/" .. name, "rb")
  if not file then return nil end
  local content = file:read("*a")
  file:close()
  return content
end

local requests, answers, by_body, turn = {}, {}, {}, 0
local buffers, last, count = {}, 0, 0 -- bytes of each request, and where its count ends
wrong, compared = 0, 0 -- global: done() asks the thread for them

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
    local payload = read(#requests + 1 .. ".request")
    if not payload then break end
    local answer = read(#requests + 1 .. ".answer")
    local whole = wrk.format("POST", nil, headers, payload)
    table.insert(requests, whole)
    if traces ~= "" then
      local buffer = ffi.new("char[?]", #whole)
      ffi.copy(buffer, whole, #whole)
      last = select(2, whole:find(DIGITS, 1, true)) - 1
      table.insert(buffers, buffer)
    end
    table.insert(answers, answer)
    by_body[answer] = true
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

local function close(body, answer)
  local got, expected = ffi.cast("const float *", body), ffi.cast("const float *", answer)
  for i = 0, #body / 4 - 1 do
    -- Put so that NaN is not close.
    if not (math.abs(got[i] - expected[i]) <= TOLERANCE) then return false end
  end
  return true
end

local function right(body)
  if #body ~= length then return false end
  if compare == "length" or by_body[body] then return true end
  if compare == "tolerance" then
    for _, answer in ipairs(answers) do
      if #answer == #body and close(body, answer) then return true end
    end
  end
  return false
end

local function check(status, _, body)
  compared = compared + 1
  if status ~= 200 or not right(body) then wrong = wrong + 1 end
end

-- wrk copies every body for a response(), even for one that does nothing.
if compare ~= "none" then response = check end

function done(summary, latency)
  local sum = { wrong = 0, compared = 0 }
  for _, thread in ipairs(threads) do
    sum.wrong = sum.wrong + thread:get("wrong")
    sum.compared = sum.compared + thread:get("compared")
  end
  local errors = summary.errors
  io.write(string.format(
    '{"requests":%d,"elapsed_us":%d,"bytes":%.0f,"errors":%d,"bad_status":%d,"wrong":%d,'
      .. '"compared":%d,"p50":%.0f,"p99":%.0f,"max":%.0f}\n',
    summary.requests, summary.duration, summary.bytes,
    errors.connect + errors.read + errors.write + errors.timeout,
    -- With a response() both count a bad status.
    sum.compared > 0 and 0 or errors.status, sum.wrong, sum.compared,
    latency:percentile(50), latency:percentile(99), latency.max))
end
