-- For wrk: requests of one kind to many paths in turn, and a line of JSON of what came of them.
--
-- METHOD  the method
-- PATHS   a file of paths, one a line
-- BODY    a file with the body of each request; empty for none
-- KEY     a bearer token; empty for none
-- SAID    where the line goes

local paths, count, body = {}, 0, nil

function init(arguments)
  for line in io.lines(os.getenv("PATHS")) do paths[#paths + 1] = line end
  if os.getenv("BODY") ~= "" then
    local file = io.open(os.getenv("BODY"), "rb")
    body = file:read("*a")
    file:close()
    wrk.headers["Content-Type"] = "application/json"
  end
  if os.getenv("KEY") ~= "" then wrk.headers["Authorization"] = "Bearer " .. os.getenv("KEY") end
end

function request()
  count = count + 1
  return wrk.format(os.getenv("METHOD"), paths[count % #paths + 1], nil, body)
end

function done(summary, latency)
  local errors, file = summary.errors, io.open(os.getenv("SAID"), "w")
  local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  file:write(string.format('{"requests":%d,"seconds":%f,"failed":%d,"p99":%f}\n',
    summary.requests, summary.duration / 1e6, failed, latency:percentile(99) / 1e3))
  file:close()
end
