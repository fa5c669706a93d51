-- One kind of request: method, path, then a body or "-".
-- "x16" in front: sixteen in one write, so that the kernel's share shrinks and ours shows.
init = function(args)
    local many = args[1] == "x16"
    if many then table.remove(args, 1) end
    local method, path, body = args[1], args[2], args[3]
    if body == "-" then
        body = nil
    else
        wrk.headers["Content-Type"] = "application/json"
    end
    local one = wrk.format(method, path, wrk.headers, body)
    request_bytes = string.rep(one, many and 16 or 1)
end

request = function() return request_bytes end
