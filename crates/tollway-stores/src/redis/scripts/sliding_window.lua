-- ceil(count × left / period) without losing a unit: count < 2^32, 0 < left <= period < 2^45.
-- A product that a double cannot hold is multiplied and divided digit by digit in base 2^7, where
-- no step reaches 2^53: (period - 1) × 128 + 127 × period < 255 × 2^45.
local function weigh(count, left, period)
  local product = count * left
  if product < 9007199254740992 then
    local whole = math.floor(product / period)
    if whole * period < product then
      whole = whole + 1
    end
    return whole
  end
  local whole, rest, unit = 0, 0, 268435456
  while unit >= 1 do
    local digit = math.floor(count / unit)
    count = count - digit * unit
    local part = rest * 128 + digit * left
    local quotient = math.floor(part / period)
    rest = part - quotient * period
    whole = whole * 128 + quotient
    unit = unit / 128
  end
  if rest > 0 then
    whole = whole + 1
  end
  return whole
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
