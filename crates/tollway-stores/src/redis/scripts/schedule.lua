-- GCRA and token bucket: the instant at which the budget is whole again, in microseconds and a
-- fraction in 1/permits of one. The spans come computed; here they are added, carried, compared.
-- A limit with a step gets its permits in lumps: between two of them no time passes for it.
-- Answers: fits, whether the state lay in the future, and the state to keep.
local function schedule(limit, now, cost, full_at, fraction)
  if limit.step then
    now = now - now % limit.step
  end
  local horizon, horizon_fraction = now + limit.tolerance, limit.tolerance_fraction
  local most, most_fraction = horizon + limit.tolerance, 2 * horizon_fraction
  if most_fraction >= limit.permits then
    most, most_fraction = most + 1, most_fraction - limit.permits
  end
  local future = false
  if not full_at then
    full_at, fraction = now + limit.lacking, limit.lacking_fraction
  elseif full_at > most or (full_at == most and fraction > most_fraction) then
    -- More than can be owed: the clock went back. Owed whole, and no longer than that.
    full_at, fraction, future = most, most_fraction, true
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

-- The state after permits are charged without asking (sign 1) or given back (-1): at most what is
-- spent, and at most one capacity beyond it.
local function adjust_schedule(limit, now, _, sign, full_at, fraction)
  if limit.step then
    now = now - now % limit.step
  end
  if full_at < now then
    full_at, fraction = now, 0
  end
  full_at, fraction = full_at + sign * limit.span, fraction + sign * limit.span_fraction
  if fraction >= limit.permits then
    full_at, fraction = full_at + 1, fraction - limit.permits
  elseif fraction < 0 then
    full_at, fraction = full_at - 1, fraction + limit.permits
  end
  if full_at < now then
    return now, 0
  end
  local most, most_fraction = now + 2 * limit.tolerance, 2 * limit.tolerance_fraction
  if most_fraction >= limit.permits then
    most, most_fraction = most + 1, most_fraction - limit.permits
  end
  if full_at > most or (full_at == most and fraction > most_fraction) then
    return most, most_fraction
  end
  return full_at, fraction
end
