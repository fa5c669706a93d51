-- Reads what a bucket has of its own; answers where that ends.
function more.bucket(text, at, limit)
  local step, lacking, lacking_fraction, traits, after = match(text, '^ ~(%d+) (%d+) (%d+) (%d)()', at)
  limit.step = step ~= '0' and step + 0 or nil
  limit.lacking, limit.lacking_fraction = lacking + 0, lacking_fraction + 0
  limit.partial, limit.notes = traits % 2 == 1, traits + 0 >= 2
  return after
end

-- A request that takes what is there, when that is less than its cost. Answers whether there was any,
-- and the state to keep; a state from the future has nothing left.
function more.rest(limit, now, full_at, fraction)
  if limit.step then
    now = now - now % limit.step
  end
  if not full_at then
    full_at, fraction = now + limit.lacking, limit.lacking_fraction
  elseif full_at < now then
    full_at, fraction = now, 0
  end
  local micros, parts = now + limit.tolerance - full_at, limit.tolerance_fraction - fraction
  if micros < 0 or (micros == 0 and parts <= 0) then
    return false
  end
  -- (micros + parts / permits) × permits / period, rounded down.
  local periods = math.floor(micros / limit.period)
  local count, rest = divide(limit.permits, micros - periods * limit.period, limit.period)
  count = periods * limit.permits + count + math.floor((rest + parts) / limit.period)
  if count <= 0 then
    return false
  end
  local span, span_fraction = divide(math.min(count, limit.capacity), limit.period, limit.permits)
  full_at, fraction = full_at + span, fraction + span_fraction
  if fraction >= limit.permits then
    full_at, fraction = full_at + 1, fraction - limit.permits
  end
  return true, full_at, fraction
end

