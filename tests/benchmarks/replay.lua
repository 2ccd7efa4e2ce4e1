-- For wrk: send recorded requests once, in their order, and say how long that took.
--
-- RECORDED  a file of requests, each as a line with its length and then its bytes
-- SAID      where the line of JSON goes; whoever waits for it then ends wrk

local ffi = require("ffi")
ffi.cdef("typedef struct { long seconds; long nanoseconds; } moment; int clock_gettime(int, moment *);")

local requests, sent, begin = {}, 0, nil

local function now()
  local moment = ffi.new("moment")
  ffi.C.clock_gettime(1, moment)
  return tonumber(moment.seconds) + tonumber(moment.nanoseconds) / 1e9
end

function init(arguments)
  local file = io.open(os.getenv("RECORDED"), "rb")
  for line in file:lines() do requests[#requests + 1] = file:read(tonumber(line)) end
  file:close()
end

function request()
  begin = begin or now()
  sent = sent + 1
  if sent == #requests + 1 then
    local file = io.open(os.getenv("SAID"), "w")
    file:write(string.format('{"requests":%d,"seconds":%f}\n', #requests, now() - begin))
    file:close()
  end
  return requests[math.min(sent, #requests)]
end
