-- ceil(count × left / period).
local function weigh(count, left, period)
  local whole, rest = divide(count, left, period)
  return rest > 0 and whole + 1 or whole
end

-- Two counters, the older one weighted by how much of its window is still in sight.
-- Answers: fits, whether the state lay in the future, and the state to keep.
local function sliding_window(limit, now, cost, seen, current, previous)
  local period, future = limit.period, false
  local at = seen and clamp_window(seen, now, period) or now
  local start = at - at % period
  if not seen then
    current, previous = 0, 0
  elseif start < seen then
    -- The clock went back: all that was in sight counts, so that nothing is freed.
    current, previous, future = math.min(current + previous, limit.capacity), 0, true
  elseif start - seen == period then
    current, previous = 0, current
  elseif start > seen then
    current, previous = 0, 0
  end
  local used = current
  if previous > 0 then
    used = used + weigh(previous, start + period - at, period)
  end
  if cost > math.max(0, limit.capacity - used) then
    return false, future
  end
  return true, future, start, current + cost, previous
end

-- The state after permits are charged without asking (sign 1) or given back (-1), the newest first.
local function adjust_sliding(limit, _, amount, sign, start, current, previous)
  if sign > 0 then
    return start, math.min(current + amount, 2 * limit.capacity), previous
  end
  return start, math.max(0, current - amount), math.max(0, previous - math.max(0, amount - current))
end
