local MOST_SIZE = 99999
-- A log as it stands in a value: the field `state` of the key's hash. Its chunks are the other fields.

function more.l(text, at, start)
  local code, period, capacity, after = match(text, '^ (%a%d+/(%d+)/(%d+))()', at)
  local limit = {
    is_log = true,
    code = code,
    period = period * 1000,
    capacity = capacity + 0,
    pattern = start .. code .. ':(%d+):(%d+):(%d+):(%d+):()',
  }
  return limit, after
end

more.h = more.l

-- Decides one limit with a log like one without, and says how it stands before what is asked and after
-- what is changed.
function more.decide(limit, number, shape, cost, value, at, text, key, logs)
  local log = { total = 0, size = 0, low = 0, high = 0, front = '', back = '', key = key, limit = number, staged = {} }
  if value then
    local total, size, low, high, start = match(value, limit.pattern, at)
    local middle = start and find(value, ':', start, true)
    if not middle then
      return nil
    end
    at = find(value, ' ', middle, true) or #value + 1
    log.total, log.size, log.low, log.high = total + 0, size + 0, low + 0, high + 0
    log.front, log.back = sub(value, start, middle - 1), sub(value, middle + 1, at - 1)
    if log.size > MOST_SIZE or log.high - log.low > 8 + log.size / 8 or (#log.front + #log.back) % RECORD ~= 0 then
      return nil
    end
  end
  logs[#logs + 1] = log
  local ahead = turn(log, limit.period, now)
  logs.moved = logs.moved or log.moved
  local said, fit = summary(log, limit, shape.change ~= 'renew' and shape.change and 0 or cost), nil
  if shape.change then
    fit = changes[shape.change](log, limit, now, cost, shape.since)
    logs.after = (logs.after or '1') .. summary(log, limit, 0)
  else
    fit = cost <= math.max(0, limit.capacity - log.total)
    if fit then
      add(log, now, cost)
    end
  end
  logs.before = (logs.before or '1') .. said
  if fit then
    compact(log)
    text = format('%s %s:%.0f:%.0f:%.0f:%.0f:%s:%s', text, limit.code, log.total, log.size, log.low, log.high, log.front, log.back)
  end
  return fit, ahead, text, at
end

-- The text that a key with logs holds; a table with the error when it holds something else.
function more.get(key)
  local text = try('HGET', key, 'state')
  if not text and try('EXISTS', key) == 1 then
    return { err = 'WRONGTYPE a hash that holds no state' }
  end
  return text
end

-- Writes a text and what has become of chunks, in place of all that is there when the value was
-- replaced; answers an error's message.
function more.put(logs, key, text, lifetime, raw, replaced)
  local set, drop = { 'HSET', key, 'state', text }, { 'HDEL', key }
  for _, log in ipairs(logs) do
    for number, records in pairs(log.staged) do
      local words = records and set or drop
      words[#words + 1] = log.limit .. ':' .. number
      words[#words + 1] = records or nil
    end
  end
  if text == raw and #set == 4 then
    return nil
  end
  if replaced then
    try('DEL', key)
  end
  local failure
  for _, words in ipairs({ set, replaced and {} or drop }) do
    for at = 3, #words, 1000 do
      local answer = try(words[1], words[2], unpack(words, at, math.min(at + 999, #words)))
      failure = failure or type(answer) == 'table' and answer.err
    end
  end
  try('PEXPIRE', key, lifetime)
  return failure
end

-- A value with logs, in one piece.
local function whole(value, key)
  local number = 0
  return (string.gsub(value, ' (%S+)', function(word)
    number = number + 1
    local code, total, size, low, high, front, back = match(word, '^([lh][^:]*):(%d+):(%d+):(%d+):(%d+):(%d*):(%d*)$')
    if not code or high - low > 8 + MOST_SIZE / 8 then
      return nil
    end
    local parts = { front }
    local log = { key = key, limit = number, staged = {} }
    for at = low + 0, high - 1 do
      parts[#parts + 1] = sub(chunk(log, at), RECORD + 1)
    end
    parts[#parts + 1] = back
    return format(' %s:%s:%s:0:0:%s:', code, total, size, table.concat(parts))
  end))
end


-- How a limit without a log stands beside one with: as it does in the value.
function more.stand(logs, value, start, after)
  local state = value and match(sub(value, start, after - 1), ' .*') or ' -'
  logs.before, logs.after = (logs.before or '1') .. state, (logs.after or '1') .. state
end

-- Says of a request's logs what the letter asks for; answers the letter, E when one could not be read.
function more.tell(shape, letter, fits, raws, logs, reply, before)
  for c = 1, #shape do
    local at = before + c + 2
    if shape[c].has_log and letter == 'O' and raws[c] then
      local value = whole(raws[c], KEYS[before + c])
      reply[at] = value == raws[c] and value or raws[c] .. '\n' .. value
    elseif shape[c].has_log and not letter then
      reply[at] = shape.change and fits and logs[c].after or logs[c].before
      for _, log in ipairs(logs[c]) do
        if log.failure then
          reply[at], letter = log.failure, 'E'
        end
      end
    end
  end
  return letter
end
