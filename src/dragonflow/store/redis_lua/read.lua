-- What changed in scopes after a revision, as far as one script may take: the rest is named, for further scripts.
--
-- ARGV: the rows and the bytes after which to stop, the number of exact scopes, each scope and revision, then prefixes alike.
-- Returns {head, rest, scope, rows, scope, rows, …}. The rest is scope, revision, …; rows are field, revision, data (nil if
-- deleted), …, in order of revision. A commit's rows of one scope come in one reading.
local SLICE = 100
local most_rows, most_bytes = tonumber(ARGV[1]), tonumber(ARGV[2])
local rows, bytes = 0, 0
local reply = {head(), {}}

local function take(scope, page, taken)
    for start = 1, #page, 2000 do -- a call has room for some thousand arguments
        local fields = {}
        for i = start, math.min(start + 1999, #page), 2 do fields[#fields + 1] = page[i] end
        local data = redis.call('HMGET', rows_of(scope), unpack(fields))
        for i, field in ipairs(fields) do
            taken[#taken + 1] = field
            taken[#taken + 1] = page[start + 2 * i - 1]
            taken[#taken + 1] = data[i]
            rows, bytes = rows + 1, bytes + #(data[i] or '')
        end
    end
end

-- Returns the revision up to which it read, if there may be more.
local function read(scope, after)
    local taken = {}
    reply[#reply + 1] = scope
    reply[#reply + 1] = taken
    while true do
        local log = log_of(scope)
        local page = redis.call('ZRANGE', log, '(' .. after, '+inf', 'BYSCORE', 'LIMIT', 0, SLICE, 'WITHSCORES')
        local more = #page == 2 * SLICE
        if more then -- the last commit may go on beyond the slice
            local last = page[#page]
            while page[#page] == last do page[#page] = nil; page[#page] = nil end
            for _, field in ipairs(redis.call('ZRANGE', log, last, last, 'BYSCORE')) do
                page[#page + 1] = field
                page[#page + 1] = last
            end
        end
        take(scope, page, taken)
        if not more then return nil end
        after = page[#page]
        if rows >= most_rows or bytes >= most_bytes then return after end
    end
end

local wanted, order = {}, {}

local function want(scope, after)
    if not wanted[scope] then
        order[#order + 1] = scope
        wanted[scope] = after
    elseif tonumber(after) < tonumber(wanted[scope]) then
        wanted[scope] = after
    end
end

local exact = tonumber(ARGV[3])
for i = 4, 3 + 2 * exact, 2 do
    local last = redis.call('ZSCORE', root .. ':scopes', ARGV[i])
    if last and tonumber(last) > tonumber(ARGV[i + 1]) then want(ARGV[i], ARGV[i + 1]) end
end
if 4 + 2 * exact <= #ARGV then
    local oldest = math.huge
    for i = 4 + 2 * exact, #ARGV, 2 do oldest = math.min(oldest, tonumber(ARGV[i + 1])) end
    local young = redis.call('ZRANGE', root .. ':scopes', '(' .. whole(oldest), '+inf', 'BYSCORE', 'WITHSCORES')
    for i = 4 + 2 * exact, #ARGV, 2 do
        local prefix, after = ARGV[i], tonumber(ARGV[i + 1])
        for j = 1, #young, 2 do
            if tonumber(young[j + 1]) > after and string.sub(young[j], 1, #prefix) == prefix then
                want(young[j], ARGV[i + 1])
            end
        end
    end
end

for _, scope in ipairs(order) do
    local after = wanted[scope]
    if rows < most_rows and bytes < most_bytes then after = read(scope, after) end
    if after then
        reply[2][#reply[2] + 1] = scope
        reply[2][#reply[2] + 1] = after
    end
end
return reply
