-- Sliding log and concurrency: a record for each instant at which permits were taken, in order. A
-- record is 21 digits, the instant in microseconds (16) and how many permits (5). The oldest and the
-- newest stand in the key's value; those between in chunks, other fields of its hash, so that a
-- check moves a few hundred bytes whatever the number of records.
--
-- log     total permits, size in records, chunks low .. high - 1, front and back, the key and the
--         limit's number in it, and what is to become of chunks (staged: text, or false for none)
-- chunk   the instant of its first record when it was made, its permits, its records
-- Front is empty only when the log is.
local RECORD, CHUNK = 21, 672

-- What is no number, because somebody else wrote it, reads as nothing.
local function instant(text, at)
  return tonumber(string.sub(text, at, at + 15)) or 0
end

local function permits_at(text, at)
  return tonumber(string.sub(text, at + 16, at + 20)) or 0
end

local function record(at, count)
  return string.format('%016.0f%05.0f', at, count)
end

-- One that is lost reads as empty: what it counted goes when the newest record does.
local function chunk(log, number)
  local text = log.staged[number]
  if text == nil then
    text = redis.pcall('HGET', log.key, log.limit .. ':' .. number)
    if type(text) == 'table' then
      log.failure, text = text.err, false
    end
  end
  return text or ''
end

local function make_chunk(log, records)
  local sum = 0
  for at = 1, #records, RECORD do
    sum = sum + permits_at(records, at)
  end
  log.staged[log.high] = string.sub(records, 1, 16) .. string.format('%05.0f', sum) .. records
  log.high = log.high + 1
end

local function fill_front(log)
  while log.front == '' and log.low < log.high do
    log.front = string.sub(chunk(log, log.low), RECORD + 1)
    log.staged[log.low] = false
    log.low, log.moved = log.low + 1, true
  end
  if log.front == '' then
    log.front, log.back = log.back, ''
  end
end

-- The instant of the newest record and its permits; nothing when there is none.
local function newest(log)
  while log.back == '' and log.low < log.high do
    log.high = log.high - 1
    log.back = string.sub(chunk(log, log.high), RECORD + 1)
    log.staged[log.high] = false
  end
  local text = log.back ~= '' and log.back or log.front
  if text ~= '' then
    return instant(text, #text - 20), permits_at(text, #text - 20)
  end
end

-- Puts `text` in place of the newest record, which has been looked at.
local function replace_newest(log, text)
  local place = log.back ~= '' and 'back' or 'front'
  log[place] = string.sub(log[place], 1, -RECORD - 1) .. text
end

local function add(log, at, count)
  if count == 0 then
    return
  end
  log.total = log.total + count
  local last, sum = newest(log)
  if last and last >= at then
    replace_newest(log, record(last, sum + count))
    return
  end
  log.size = log.size + 1
  if log.back == '' and log.low == log.high and #log.front < CHUNK then
    log.front = log.front .. record(at, count)
  elseif #log.back < CHUNK then
    log.back = log.back .. record(at, count)
  else
    make_chunk(log, log.back)
    log.back = record(at, count)
  end
end

-- Takes out up to `count` permits, the newest first, of records later than `after`; answers how many.
local function give_back(log, count, after)
  local left = count
  local at, sum = newest(log)
  while left > 0 and at and at > after do
    local taken = math.min(left, sum)
    left, log.total = left - taken, log.total - taken
    if taken < sum then
      replace_newest(log, record(at, sum - taken))
    else
      replace_newest(log, '')
      log.size = log.size - 1
    end
    at, sum = newest(log)
  end
  fill_front(log)
  return count - left
end

-- Forgets what is over. Records from the future, after a clock went back, count from now on; answers
-- whether there were some.
local function turn(log, period, now)
  local last = newest(log)
  if not last or last + period <= now then
    for number = log.low, log.high - 1 do
      log.staged[number] = false
    end
    log.moved = log.moved or log.low < log.high
    log.front, log.back, log.low, log.high, log.total, log.size = '', '', 0, 0, 0, 0
    return false
  end
  repeat
    local at = 1
    while at < #log.front and instant(log.front, at) + period <= now do
      log.total, log.size = log.total - permits_at(log.front, at), log.size - 1
      at = at + RECORD
    end
    log.front = string.sub(log.front, at)
    local used_up = log.front == ''
    if used_up then
      fill_front(log)
    end
  until not used_up or log.front == ''
  if last <= now then
    return false
  end
  add(log, now, give_back(log, log.total, now))
  return true
end

-- The place of the record made at `since`, in order as they are.
local function seek(text, since)
  local low, high = 0, #text / RECORD - 1
  while low <= high do
    local middle = math.floor((low + high) / 2)
    local at = instant(text, middle * RECORD + 1)
    if at == since then
      return middle * RECORD + 1
    elseif at < since then
      low = middle + 1
    else
      high = middle - 1
    end
  end
end

-- Takes `count` permits out of the records `text`: what is left of them, or nothing when they are not there.
local function without(log, text, since, count)
  local at = seek(text, since)
  local sum = at and permits_at(text, at)
  if not at or sum < count then
    return nil
  end
  local rest = ''
  if sum > count then
    rest = record(since, sum - count)
  else
    log.size = log.size - 1
  end
  log.total = log.total - count
  return string.sub(text, 1, at - 1) .. rest .. string.sub(text, at + RECORD)
end

-- Takes `count` permits out of the record made at `since`; answers whether they were there.
local function take(log, since, count)
  if log.back ~= '' and instant(log.back, 1) <= since then
    local left = without(log, log.back, since, count)
    log.back = left or log.back
    return left ~= nil
  end
  local low, high = log.low, log.high
  while low < high do
    -- The last chunk that begins no later.
    local middle = math.floor((low + high) / 2)
    local text = chunk(log, middle)
    if text == '' or instant(text, 1) <= since then
      low = middle + 1
    else
      high = middle
    end
  end
  if low > log.low then
    local text = chunk(log, low - 1)
    local left = without(log, string.sub(text, RECORD + 1), since, count)
    if left then
      log.staged[low - 1] = record(instant(text, 1), permits_at(text, 1) - count) .. left
    end
    return left ~= nil
  end
  local left = without(log, log.front, since, count)
  log.front = left or log.front
  fill_front(log)
  return left ~= nil
end

-- The instant of the record whose end frees `excess` permits; 0 when none does.
local function frees(log, excess)
  local function walk(text)
    for at = 1, #text, RECORD do
      excess = excess - permits_at(text, at)
      if excess <= 0 then
        return instant(text, at)
      end
    end
  end
  local at = walk(log.front)
  for number = log.low, log.high - 1 do
    if at then
      return at
    end
    local text = chunk(log, number)
    local sum = text == '' and 0 or permits_at(text, 1)
    if sum < excess then
      excess = excess - sum
    else
      at = walk(string.sub(text, RECORD + 1))
    end
  end
  return at or walk(log.back) or 0
end

-- How a log stands before `cost` is asked of it: permits, newest instant, and the instant of the
-- record that has to end for the cost to fit.
local function summary(log, limit, cost)
  local excess = log.total + cost - limit.capacity
  local at = 0
  if excess > 0 and cost > 0 and cost <= limit.capacity then
    at = frees(log, excess)
  end
  return string.format(' %s:%.0f:%.0f:%.0f', limit.code, log.total, newest(log) or 0, at)
end

-- Cuts it anew when permits given back have left holes, or somebody wrote it in one piece.
local function compact(log)
  if log.high - log.low <= 8 + log.size / 8 and #log.front <= 2 * CHUNK then
    return
  end
  local parts = { log.front }
  for number = log.low, log.high - 1 do
    parts[#parts + 1] = string.sub(chunk(log, number), RECORD + 1)
    log.staged[number] = false
  end
  parts[#parts + 1] = log.back
  local all, at = table.concat(parts), CHUNK + 1
  log.front, log.low = string.sub(all, 1, CHUNK), log.high
  while #all - at >= CHUNK do
    make_chunk(log, string.sub(all, at, at + CHUNK - 1))
    at = at + CHUNK
  end
  log.back = string.sub(all, at)
end

-- What is done without asking; answers whether it was. Of all, only a renewal can fail.
local changes = {
  charge = function(log, limit, now, count)
    add(log, now, math.min(count, math.max(0, 2 * limit.capacity - log.total)))
    return true
  end,
  refund = function(log, _, _, count)
    give_back(log, count, 0)
    return true
  end,
  release = function(log, _, _, count, since)
    -- What is not there any more was over, and had been given to somebody else.
    take(log, since, count)
    return true
  end,
  renew = function(log, limit, now, count, since)
    local done = take(log, since, count) or count <= limit.capacity - log.total
    if done then
      add(log, now, count)
    end
    return done
  end,
}
