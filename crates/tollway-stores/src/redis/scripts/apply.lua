-- One call answers many requests, each all-or-nothing, on one clock reading.
--
-- KEYS  the keys of all requests, in order
-- ARGV  1            the shapes' number, n
--       2 .. n + 1   the shapes: "mode charges" and for each charge "lifetime cost limits" and for
--                    each limit "code span span_fraction tolerance tolerance_fraction", behind
--                    which may stand "~step lacking lacking_fraction traits", or, of a calendar
--                    limit, "code" and the edges of six of its periods
--       n + 2        one byte for each request: the number of its shape
--       n + 3 ..     for each key of a request on replaced values: the value it must have ("" for
--                    none) and the value to read instead
--
-- mode  the sum of: 1 only looks, 2 reads replaced values, 4 gives the cost back, 8 charges it
--       without asking
-- code  kind, permits, "/", period in milliseconds, "/", capacity; kinds: b bucket, w window,
--       f window from the first request, s sliding window. Of c, calendar: permits, "/", unit, and
--       "/" and the zone where one is named
-- step, lacking, traits: of a bucket, the time between two lumps or 0, what a newcomer lacks, and the
--       sum of: 1 requests are served in part, 2 newcomers are noted when they are refused
--
-- Answers: the time in microseconds, one letter for each request, and each key's value as it was.
-- Letters: A allowed, R refused, O some value is not in the shape's form, C the clock stands
-- outside the periods given, E a command failed and its message stands in place of the value.
-- O, C and E leave the request without effect.
local MOST_COUNT, MOST_TIME = 4294967295, 9007199254740991
local format, match, sub, try = string.format, string.match, string.sub, redis.pcall
-- The quicker of the two, where a C long holds it.
local WHOLE = format('%d', MOST_TIME) == '9007199254740991' and ':%d' or ':%.0f'

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
-- Whether the clock stands outside the calendar periods of the shape being read.
local elsewhere

-- Reads what a bucket has of its own; answers where that ends.
local function read_bucket(text, at, limit)
  local step, lacking, lacking_fraction, traits, after = match(text, '^ ~(%d+) (%d+) (%d+) (%d)()', at)
  limit.step = step ~= '0' and step + 0 or nil
  limit.lacking, limit.lacking_fraction = lacking + 0, lacking_fraction + 0
  limit.partial, limit.notes = traits % 2 == 1, traits + 0 >= 2
  return after
end

local function read_calendar(text, at, start)
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

-- Reads the limit that stands at `at` in a shape; answers it and where it ends.
local function read_limit(text, at, start)
  if sub(text, at + 1, at + 1) == 'c' then
    return read_calendar(text, at, start)
  end
  local code, kind, permits, period, capacity, span, span_fraction, tolerance, tolerance_fraction, after =
    match(text, '^ ((%a)(%d+)/(%d+)/(%d+)) (%d+) (%d+) (%d+) (%d+)()', at)
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
    after = read_bucket(text, after, limit)
  end
  return limit, after
end

local function read_shape(text)
  local mode, charges, at = match(text, '^(%d+) (%d+)()')
  mode = mode + 0
  local shape = { peek = mode % 2 == 1, replaced = mode % 4 >= 2 }
  -- Charge without asking, give back, or neither.
  shape.sign = mode >= 8 and 1 or mode >= 4 and -1 or 0
  elsewhere = false
  for c = 1, charges do
    local lifetime, cost, limits, after = match(text, '^ (%d+) (%d+) (%d+)()', at)
    local charge = { lifetime = lifetime, cost = cost + 0 }
    at = after
    for l = 1, limits do
      charge[l], at = read_limit(text, at, l == 1 and '^1 ' or '^ ')
    end
    charge.notes = charge[1].notes
    charge.partial = charges == '1' and limits == '1' and charge[1].partial
    shape[c] = charge
  end
  shape.elsewhere = elsewhere
  return shape
end

-- Decides one charge on the text `value`: nil when the text is not in its form, otherwise whether
-- it fits, whether a state lay in the future, and the text to keep and its lifetime when it fits.
local function decide(charge, value, cost, sign)
  local fits, future, text, at = true, false, '1', 1
  local lifetime = charge.lifetime
  for l = 1, #charge do
    local limit = charge[l]
    local a, b, c, fit, ahead
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
    local x, y = a, b
    fit, ahead, a, b, c = limit.run(limit, now, sign == 0 and cost or 0, a, b, c)
    if not fit and charge.partial then
      fit, a, b = schedule_rest(limit, now, x, y)
    end
    if sign ~= 0 then
      a, b, c = limit.adjust(limit, now, math.min(cost, 2 * limit.capacity), sign, a, b, c)
    end
    fits, future = fits and fit, future or ahead
    if fits then
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
  return fits, future, text, lifetime
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
local raws, values, texts, lifetimes, ahead = {}, {}, {}, {}, {}
local before = 0

local function answer(shape)
  local letter, fits = shape.elsewhere and 'C' or nil, true
  for c = 1, #shape do
    local raw = try('GET', KEYS[before + c])
    if type(raw) == 'table' then
      reply[before + c + 2] = raw.err
      letter = 'E'
    else
      raws[c], values[c] = raw, raw
      reply[before + c + 2] = raw
    end
    if shape.replaced then
      extra = extra + 2
      values[c] = ARGV[extra] ~= '' and ARGV[extra]
      if (raw or '') ~= ARGV[extra - 1] then
        letter = letter or 'O'
      end
    end
    if not letter then
      local fit
      fit, ahead[c], texts[c], lifetimes[c] = decide(shape[c], values[c], shape[c].cost, shape.sign)
      if fit == nil then
        letter = 'O'
      end
      fits = fits and fit
    end
  end
  if letter then
    return letter
  end
  for c = 1, #shape do
    local write = not shape.peek and (fits or ahead[c] or shape.replaced or (shape[c].notes and not values[c]))
    if write then
      local text, lifetime = texts[c], lifetimes[c]
      if not fits then
        -- A refusal spends nothing, but a state from the future is pulled back.
        local _
        _, _, text, lifetime = decide(shape[c], values[c], 0, 0)
      end
      local failure = keep(KEYS[before + c], text, lifetime, raws[c])
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
