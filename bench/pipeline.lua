-- Sixteen requests in one write, so that the kernel's share of a request shrinks and ours shows.
init = function(args)
    local one = wrk.format("GET", args[1])
    local all = {}
    for i = 1, 16 do all[i] = one end
    request_bytes = table.concat(all)
end

request = function() return request_bytes end
