-- count × left / divisor, whole and rest, without losing a unit: count < 2^32, left and divisor < 2^45.
-- A product that a double cannot hold is multiplied and divided digit by digit in base 2^7, where
-- no step reaches 2^53: (divisor - 1) × 128 + 127 × left < 255 × 2^45.
local function divide(count, left, divisor)
  local product = count * left
  if product < 9007199254740992 then
    local whole = math.floor(product / divisor)
    return whole, product - whole * divisor
  end
  local whole, rest, unit = 0, 0, 268435456
  while unit >= 1 do
    local digit = math.floor(count / unit)
    count = count - digit * unit
    local part = rest * 128 + digit * left
    local quotient = math.floor(part / divisor)
    rest = part - quotient * divisor
    whole = whole * 128 + quotient
    unit = unit / 128
  end
  return whole, rest
end
