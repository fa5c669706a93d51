-- One call answers many requests, each all-or-nothing, on one clock reading.
--
-- KEYS  the keys of all requests, in order
-- ARGV  1            the shapes' number, n
--       2 .. n + 1   the shapes: "mode charges" and for each charge "lifetime cost limits" and for
--                    each limit "code span span_fraction tolerance tolerance_fraction"
--       n + 2        one byte for each request: the number of its shape
--       n + 3 ..     for each key of a request with mode 2 or 3: the value it must have ("" for
--                    none) and the value to read instead
--
-- mode  0 spends, 1 only looks; 2 and 3 are the same on replaced values
-- code  kind, permits, "/", period in milliseconds, "/", capacity; kinds: b bucket, w window,
--       f window from the first request, s sliding window
--
-- Answers: the time in microseconds, one letter for each request, and each key's value as it was.
-- Letters: A allowed, R refused, O some value is not in the shape's form, E a command failed and
-- its message stands in place of the value. O and E leave the request without effect.
local MOST_COUNT, MOST_TIME = 4294967295, 9007199254740991
local byte, format, match = string.byte, string.format, string.match
local try = redis.pcall

local KINDS = {
  b = { run = schedule, fields = 2 },
  w = { run = fixed_window, fields = 2, aligned = true },
  f = { run = fixed_window, fields = 2 },
  s = { run = sliding_window, fields = 3 },
}

local function read_limit(word)
  local code = word()
  local kind, permits, period, capacity = match(code, '^(%a)(%d+)/(%d+)/(%d+)$')
  local limit = { run = KINDS[kind].run, fields = KINDS[kind].fields, aligned = KINDS[kind].aligned }
  limit.permits, limit.period, limit.capacity = tonumber(permits), period * 1000, tonumber(capacity)
  limit.span, limit.span_fraction = tonumber(word()), tonumber(word())
  limit.tolerance, limit.tolerance_fraction = tonumber(word()), tonumber(word())
  limit.most = kind == 'b' and limit.permits - 1 or MOST_COUNT
  limit.pattern = ' ' .. code .. string.rep(':(%d+)', limit.fields)
  limit.format = ' ' .. code .. string.rep(':%.0f', limit.fields)
  return limit
end

local function read_shape(text)
  local word = string.gmatch(text, '%S+')
  local mode = tonumber(word())
  local shape = { peek = mode % 2 == 1, replaced = mode >= 2 }
  for c = 1, tonumber(word()) do
    local charge = { lifetime = word(), cost = tonumber(word()) }
    local pattern = '^1'
    for l = 1, tonumber(word()) do
      charge[l] = read_limit(word)
      pattern = pattern .. charge[l].pattern
    end
    charge.pattern = pattern .. '$'
    shape[c] = charge
  end
  return shape
end

-- Decides one charge on the text `value`: nil when the text is not in its form, otherwise whether
-- it fits, whether a state lay in the future, and the text to keep when it fits.
local function decide(charge, now, value, cost)
  local fits, future, text = true, false, '1'
  local field = value and { match(value, charge.pattern) }
  if field and not field[1] then
    return nil
  end
  local at = 1
  for l = 1, #charge do
    local limit = charge[l]
    local a, b, c
    if field then
      a, b = tonumber(field[at]), tonumber(field[at + 1])
      if a > MOST_TIME or b > limit.most then
        return nil
      end
      if limit.fields == 3 then
        c = tonumber(field[at + 2])
        if c > MOST_COUNT then
          return nil
        end
      end
      at = at + limit.fields
    end
    local fit, ahead
    fit, ahead, a, b, c = limit.run(limit, now, cost, a, b, c)
    fits, future = fits and fit, future or ahead
    if fits then
      text = text .. format(limit.format, a, b, c)
    end
  end
  return fits, future, text
end

-- Writes a charge's text unless that is what the key holds; answers an error's message.
local function keep(key, charge, text, raw)
  if text ~= raw then
    local answer = try('SET', key, text, 'PX', charge.lifetime)
    return answer.err
  end
end

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local count = tonumber(ARGV[1])
local shapes = {}
for s = 1, count do
  shapes[s] = read_shape(ARGV[s + 1])
end
local order, extra = ARGV[count + 2], count + 2

local reply, letters = { now, '' }, {}
local raws, values, texts, ahead = {}, {}, {}, {}
local before = 0

local function answer(shape)
  local letter, fits = nil, true
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
      fit, ahead[c], texts[c] = decide(shape[c], now, values[c], shape[c].cost)
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
    local write = not shape.peek and (fits or ahead[c] or shape.replaced)
    if write then
      local text = texts[c]
      if not fits then
        -- A refusal spends nothing, but a state from the future is pulled back.
        local _
        _, _, text = decide(shape[c], now, values[c], 0)
      end
      local failure = keep(KEYS[before + c], shape[c], text, raws[c])
      if failure then
        reply[before + c + 2] = failure
        return 'E'
      end
    end
  end
  return fits and 'A' or 'R'
end

for r = 1, #order do
  local shape = shapes[byte(order, r)]
  letters[r] = answer(shape)
  before = before + #shape
end
reply[2] = table.concat(letters)
return reply
