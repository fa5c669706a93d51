-- Reads the limit that stands at `at` in a shape; answers it and where it ends.
local function read_limit(text, at, start)
  local kind = sub(text, at + 1, at + 1)
  if more[kind] then
    return more[kind](text, at, start)
  end
  local code, permits, period, capacity, span, span_fraction, tolerance, tolerance_fraction, after =
    match(text, '^ (%a(%d+)/(%d+)/(%d+)) (%d+) (%d+) (%d+) (%d+)()', at)
  local three = kind == 's'
  local limit = {
    run = kind == 'b' and schedule or three and sliding_window or fixed_window,
    adjust = kind == 'b' and adjust_schedule or three and adjust_sliding or adjust_window,
    aligned = kind == 'w',
    permits = permits + 0,
    period = period * 1000,
    capacity = capacity + 0,
    span = span + 0,
    span_fraction = span_fraction + 0,
    tolerance = tolerance + 0,
    tolerance_fraction = tolerance_fraction + 0,
    lacking = 0,
    lacking_fraction = 0,
    reach = kind == 'b' and tolerance + 0 or 0,
    most = kind == 'b' and permits - 1 or MOST_COUNT,
    pattern = start .. code .. (three and ':(%d+):(%d+):(%d+)()' or ':(%d+):(%d+)()'),
    format = '%s ' .. code .. WHOLE .. WHOLE .. (three and WHOLE or ''),
  }
  if sub(text, after + 1, after + 1) == '~' then
    after = more.bucket(text, after, limit)
  end
  return limit, after
end

local function read_shape(text)
  local mode, since, charges, at = match(text, '^(%d+) (%d+) (%d+)()')
  mode = mode + 0
  local shape = { peek = mode % 2 == 1, replaced = mode % 4 >= 2, since = since + 0 }
  -- Charge without asking, give back, or neither.
  shape.sign = mode >= 16 and 0 or mode >= 8 and 1 or mode >= 4 and -1 or 0
  shape.change = mode >= 32 and 'renew' or mode >= 16 and 'release' or mode >= 8 and 'charge' or mode >= 4 and 'refund'
  elsewhere = false
  for c = 1, charges do
    local lifetime, cost, limits, after = match(text, '^ (%d+) (%d+) (%d+)()', at)
    local charge = { lifetime = lifetime, cost = cost + 0 }
    at = after
    for l = 1, limits do
      charge[l], at = read_limit(text, at, l == 1 and '^1 ' or '^ ')
      charge.has_log = charge.has_log or charge[l].is_log
    end
    shape.has_log = shape.has_log or charge.has_log
    charge.notes = charge[1].notes
    charge.partial = charges == '1' and limits == '1' and charge[1].partial
    shape[c] = charge
  end
  shape.elsewhere = elsewhere
  return shape
end

-- Decides one charge on the text `value`: nil when the text is not in its form, otherwise whether
-- it fits, whether a state lay in the future, and the text to keep and its lifetime when it fits; of
-- one with logs also those and how its limits stand.
local function decide(charge, shape, cost, value, key)
  local fits, future, text, at = true, false, '1', 1
  local lifetime, logs = charge.lifetime, charge.has_log and {}
  for l = 1, #charge do
    local limit = charge[l]
    local a, b, c, fit, ahead
    if limit.is_log then
      fit, ahead, text, at = more.decide(limit, l, shape, cost, value, at, text, key, logs)
      if fit == nil then
        return nil
      end
    else
      local start = at
      if value then
        local after
        a, b, c, after = match(value, limit.pattern, at)
        if not a then
          return nil
        end
        a, b, at = a + 0, b + 0, after or c
        if after then
          c = c + 0
          if c > MOST_COUNT then
            return nil
          end
        end
        if a > MOST_TIME or b > limit.most then
          return nil
        end
      end
      if logs then
        more.stand(logs, value, start, at)
      end
      local x, y = a, b
      fit, ahead, a, b, c = limit.run(limit, now, shape.change and 0 or cost, a, b, c)
      if shape.sign ~= 0 then
        a, b, c = limit.adjust(limit, now, math.min(cost, 2 * limit.capacity), shape.sign, a, b, c)
      elseif not fit and charge.partial then
        fit, a, b = more.rest(limit, now, x, y)
      end
    end
    fits, future = fits and fit, future or ahead
    if fits and a then
      text = format(limit.format, text, a, b, c)
      if a > now + limit.reach then
        -- After the clock went back, a window begins up to a period from now, and a bucket may owe
        -- its capacity on top of having spent it.
        lifetime = 2 * charge.lifetime
      end
    end
  end
  if value and at <= #value then
    return nil
  end
  return fits, future, text, lifetime, logs
end

-- Writes a text unless that is what the key holds; answers an error's message.
local function keep(key, text, lifetime, raw)
  if text ~= raw then
    local answer = try('SET', key, text, 'PX', lifetime)
    return answer.err
  end
end

local count = tonumber(ARGV[1])
local shapes = {}
for s = 1, count do
  shapes[s] = read_shape(ARGV[s + 1])
end
local order, extra = ARGV[count + 2], count + 2

local reply, letters = { now, '' }, {}
local raws, values, texts, lifetimes, ahead, logs = {}, {}, {}, {}, {}, {}
local before = 0

local function answer(shape)
  local letter, fits = shape.elsewhere and 'C' or nil, true
  for c = 1, #shape do
    local charge, key = shape[c], KEYS[before + c]
    local raw
    if charge.has_log then
      raw = more.get(key)
    else
      raw = try('GET', key)
    end
    if type(raw) == 'table' then
      -- What a limit of the other kind left there is text all the same.
      local text = charge.has_log and try('GET', key) or try('HGET', key, 'state')
      if type(text) == 'string' then
        raw, letter = text, letter or not shape.replaced and 'O' or nil
        reply[before + c + 2] = text
      else
        reply[before + c + 2] = raw.err
        letter, raw = 'E', false
      end
    else
      reply[before + c + 2] = raw
    end
    raws[c], values[c] = raw, raw
    if shape.replaced then
      extra = extra + 2
      values[c] = ARGV[extra] ~= '' and ARGV[extra]
      if (raw or '') ~= ARGV[extra - 1] then
        letter = letter or 'O'
      end
    end
    if not letter then
      local fit
      fit, ahead[c], texts[c], lifetimes[c], logs[c] = decide(charge, shape, charge.cost, values[c], key)
      if fit == nil then
        letter = 'O'
      end
      fits = fits and fit
    end
  end
  if shape.has_log then
    letter = more.tell(shape, letter, fits, raws, logs, reply, before)
  end
  if letter then
    return letter
  end
  for c = 1, #shape do
    local charge, key, own = shape[c], KEYS[before + c], logs[c]
    local arrived = charge.notes and not values[c]
    if not shape.peek and (fits or ahead[c] or shape.replaced or arrived or own and own.moved) then
      local text, lifetime, _ = texts[c], lifetimes[c], nil
      if not fits then
        -- A refusal spends nothing, but a state from the future is pulled back.
        _, _, text, lifetime, own = decide(charge, { sign = 0 }, 0, values[c], key)
      end
      local failure
      if own then
        failure = more.put(own, key, text, lifetime, raws[c], shape.replaced)
      else
        failure = keep(key, text, lifetime, raws[c])
      end
      if failure then
        reply[before + c + 2] = failure
        return 'E'
      end
    end
  end
  return fits and 'A' or 'R'
end

for r = 1, #order do
  local shape = shapes[string.byte(order, r)]
  letters[r] = answer(shape)
  before = before + #shape
end
reply[2] = table.concat(letters)
return reply
