-- One counter for each calendar period. The edges of six periods come computed; the clock stands in
-- one of the first three.
-- Answers: fits, whether the state lay in the future, and the state to keep.
local function calendar(limit, now, cost, start, count)
  local edges, future = limit.edges, false
  local at = 1
  while now >= edges[at + 1] do
    at = at + 1
  end
  if not start or start < edges[at] then
    start, count = edges[at], 0
  elseif start > now then
    -- The clock stepped back. Where the window it left ends; more than two windows away it does not matter.
    local stop = start
    for edge = at + 3, at + 1, -1 do
      if start < edges[edge] then
        stop = edges[edge]
      end
    end
    if start - now > stop - start then
      -- It jumped back: a new window with the old count.
      start, future = edges[at], true
    end
  end
  if cost > math.max(0, limit.capacity - count) then
    return false, future
  end
  return true, future, start, count + cost
end

function more.c(text, at, start)
  local code, permits, a, b, c, d, e, f, after =
    match(text, '^ (c(%d+)/%S+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+)()', at)
  local edges = { a + 0, b + 0, c + 0, d + 0, e + 0, f + 0 }
  elsewhere = elsewhere or now < edges[1] or now >= edges[4]
  local limit = {
    run = calendar,
    adjust = adjust_window,
    edges = edges,
    capacity = permits + 0,
    reach = 0,
    most = MOST_COUNT,
    pattern = start .. string.gsub(code, '%p', '%%%0') .. ':(%d+):(%d+)()',
    format = '%s ' .. code .. WHOLE .. WHOLE,
  }
  return limit, after
end

