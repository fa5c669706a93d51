-- GCRA and token bucket: the instant at which the budget is whole again, in microseconds and a
-- fraction in 1/permits of one. The spans come computed; here they are added, carried, compared.
-- Answers: fits, whether the state lay in the future, and the state to keep.
local function schedule(limit, now, cost, full_at, fraction)
  local horizon, horizon_fraction = now + limit.tolerance, limit.tolerance_fraction
  local future = false
  if not full_at then
    full_at, fraction = now, 0
  elseif full_at > horizon or (full_at == horizon and fraction > horizon_fraction) then
    -- The clock went back: spent whole, and no longer than that.
    full_at, fraction, future = horizon, horizon_fraction, true
  end
  if cost == 0 then
    return true, future, full_at, fraction
  end
  if cost > limit.capacity then
    return false, future
  end
  if full_at < now then
    full_at, fraction = now, 0
  end
  full_at, fraction = full_at + limit.span, fraction + limit.span_fraction
  if fraction >= limit.permits then
    full_at, fraction = full_at + 1, fraction - limit.permits
  end
  if full_at > horizon or (full_at == horizon and fraction > horizon_fraction) then
    return false, future
  end
  return true, future, full_at, fraction
end
