-- One call answers many requests, each all-or-nothing, on one clock reading.
--
-- KEYS  the keys of all requests, in order: strings, and hashes where a limit has a log
-- ARGV  1            the shapes' number, n
--       2 .. n + 1   the shapes: "mode since charges" and for each charge "lifetime cost limits" and
--                    for each limit "code span span_fraction tolerance tolerance_fraction", behind
--                    which may stand "~step lacking lacking_fraction traits"; of a calendar limit
--                    "code" and the edges of six of its periods; of a log "code"
--       n + 2        one byte for each request: the number of its shape
--       n + 3 ..     for each key of a request on replaced values: the value it must have ("" for
--                    none) and the value to read instead
--
-- mode  the sum of: 1 only looks, 2 reads replaced values, and one of: 4 gives the cost back, 8
--       charges it without asking, 16 releases and 32 renews permits taken at the instant `since`
-- code  kind, permits, "/", period in milliseconds, "/", capacity; kinds: b bucket, w window,
--       f window from the first request, s sliding window, l sliding log, h permits held. Of c,
--       calendar: permits, "/", unit, and "/" and the zone where one is named
-- step, lacking, traits: of a bucket, the time between two lumps or 0, what a newcomer lacks, and the
--       sum of: 1 requests are served in part, 2 newcomers are noted when they are refused
--
-- Answers: the time in microseconds, one letter for each request, and for each charge the value as it
-- was. Of a charge with a log it says instead how each limit stands, "1" and " code:permits:newest:freeing"
-- of a log, " code:state" or " -" of others, before what is asked and after what is changed; where the
-- letter is O, the value and, behind a line feed, the value in one piece.
-- Letters: A allowed, R refused, O some value is not in the shape's form, C the clock stands
-- outside the periods given, E a command failed and its message stands in place of the value.
-- O, C and E leave the request without effect.
local MOST_COUNT, MOST_TIME = 4294967295, 9007199254740991
local format, find, match, sub, try = string.format, string.find, string.match, string.sub, redis.pcall
-- The quicker of the two, where a C long holds it.
local WHOLE = format('%d', MOST_TIME) == '9007199254740991' and ':%d' or ':%.0f'

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
-- Whether the clock stands outside the calendar periods of the shape being read.
local elsewhere

-- What only the script for all kinds of limits knows.
local more = {}
