-- The head of all scripts that only read: they run also while the server refuses writes.
--
-- A reading begins with {identity, layout, revision, forgotten, ms until the next lease ends, ms since somebody ended leases};
-- the last two are nil without leases.
local function head()
    local first = redis.call('ZRANGE', root .. ':leases', 0, 0, 'WITHSCORES')
    local due, age = false, false
    if first[2] then due, age = tonumber(first[2]) - now, now - tonumber(facts[6] or now) end
    return {identity, layout, revision, forgotten, due, age}
end
