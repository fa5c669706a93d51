-- The instant to count at when a window starts at `start`: a clock that stepped back by up to one
-- period is taken to stand at the window it left.
local function clamp_window(start, now, period)
  if start > now and start - now <= period then
    return start
  end
  return now
end

-- One counter for each window, beginning at multiples of the period or at the first request.
-- Answers: fits, whether the state lay in the future, and the state to keep.
local function fixed_window(limit, now, cost, start, count)
  local period, future = limit.period, false
  local at = start and clamp_window(start, now, period) or now
  if not start or at >= start + period then
    start, count = at, 0
    if limit.aligned then
      start = at - at % period
    end
  elseif at < start then
    -- The clock jumped back: a new window with the old count.
    start, future = at, true
    if limit.aligned then
      start = at - at % period
    end
  end
  if cost > math.max(0, limit.capacity - count) then
    return false, future
  end
  return true, future, start, count + cost
end

-- The state after permits are charged without asking (sign 1) or given back (-1).
local function adjust_window(limit, _, amount, sign, start, count)
  return start, math.max(0, math.min(count + sign * amount, 2 * limit.capacity))
end
