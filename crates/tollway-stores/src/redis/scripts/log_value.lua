local MOST_SIZE = 99999
-- A log as it stands in a value, and its chunks in their hash.

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

-- What the logs of a charge have to put into their hash, or to drop from it.
local function staged(logs, key, dropped)
  local words = { dropped and 'HDEL' or 'HSET', key }
  for _, log in ipairs(logs) do
    for number, text in pairs(log.staged) do
      if not text == dropped then
        words[#words + 1] = log.limit .. ':' .. number
        words[#words + 1] = text or nil
      end
    end
  end
  return words
end

-- Sends a command's words, some at a time; answers an error's message.
local function send(words)
  local failure
  for at = 3, #words, 1000 do
    local answer = try(words[1], words[2], unpack(words, at, math.min(at + 999, #words)))
    failure = failure or type(answer) == 'table' and answer.err
  end
  return failure
end

-- Puts chunks where they belong, in place of all that is there when the value was not read or is new.
function more.put(logs, key, lifetime, afresh, replaced)
  local words = staged(logs, key, false)
  if afresh and (#words > 2 or replaced) then
    try('DEL', key)
  end
  local failure = send(words)
  if #words > 2 then
    try('PEXPIRE', key, lifetime)
  end
  return failure
end

function more.drop(logs, key)
  return send(staged(logs, key, true))
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
function more.tell(shape, letter, fits, raws, logs, keys, reply, before)
  for c = 1, #shape do
    local at = before + c + 2
    if shape[c].has_log and letter == 'O' and raws[c] then
      local value = whole(raws[c], KEYS[keys[c] + 1])
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
