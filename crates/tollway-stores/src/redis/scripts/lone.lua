-- One request about one key with one limit, spelled and answered as a call about many is: nothing is
-- kept for others, which halves what such a call costs the server.
local mode, lifetime, cost, code, permits, period, capacity, span, span_fraction, tolerance, tolerance_fraction =
  match(ARGV[2], '^([01]) 0 1 (%d+) (%d+) 1 (%a(%d+)/(%d+)/(%d+)) (%d+) (%d+) (%d+) (%d+)$')
local key = KEYS[1]
local limit = {
  aligned = sub(code, 1, 1) == 'w',
  permits = permits + 0,
  period = period * 1000,
  capacity = capacity + 0,
  span = span + 0,
  span_fraction = span_fraction + 0,
  tolerance = tolerance + 0,
  tolerance_fraction = tolerance_fraction + 0,
  lacking = 0,
  lacking_fraction = 0,
}

local raw = try('GET', key)
if type(raw) == 'table' then
  -- What a limit of another kind left there is text all the same.
  local text = try('HGET', key, 'state')
  if type(text) == 'string' then
    return { now, 'O', text }
  end
  return { now, 'E', raw.err }
end
local a, b, c
if raw then
  a, b, c = match(raw, '^1 ' .. code .. FIELDS)
  a, b, c = tonumber(a), tonumber(b), tonumber(c)
  if not a or a > MOST_TIME or b > (IS_BUCKET and permits - 1 or MOST_COUNT) or c and c > MOST_COUNT then
    return { now, 'O', raw }
  end
end
local fits, future, x, y, z, _ = run(limit, now, cost + 0, a, b, c)
if mode == '0' and (fits or future) then
  if not fits then
    -- A refusal spends nothing, but a state from the future is pulled back.
    _, _, x, y, z = run(limit, now, 0, a, b, c)
  end
  local text = format('1 ' .. code .. SPELLED, x, y, z)
  if text ~= raw then
    local far = x > now + (IS_BUCKET and limit.tolerance or 0)
    local failure = try('SET', key, text, 'PX', far and 2 * lifetime or lifetime).err
    if failure then
      return { now, 'E', failure }
    end
  end
end
return { now, fits and 'A' or 'R', raw }
