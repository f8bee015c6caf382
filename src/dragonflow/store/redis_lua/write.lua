-- The head of all scripts that write.
--
-- ARGV: the store's identity as the caller knows it ('' if it never saw one), one to use if there is none, the layout that the
-- caller knows, how many deletions to remember, and the ms of this server's clock after which the caller doesn't want it any more.
local LEAP = 1073741824 -- 2^30 revisions: more than a master that was cut off can have given away before its clients left it
local GRACE = 5000      -- ms without a look at the leases, beyond which the time between is not theirs
local COUNTED = 1000    -- ms of such a time that are theirs all the same, so that a dead one ends some day
local REAP = 200        -- leases ended at once
local PRUNE = 500       -- deletions forgotten at once
local LONGEST = 3000    -- ms that a caller may leave at most: one that leaves more doesn't know this clock

-- It lay in a buffer while this server hung, and its caller has told others that it failed; or the clock leapt, or was never known.
local left = tonumber(ARGV[5]) - now
if left < 0 or left > LONGEST then return redis.error_reply('-DFLATE ' .. whole(now) .. ' ms is the time here') end

if identity and layout ~= ARGV[3] then return redis.error_reply('-DFLAYOUT the layout is ' .. layout) end
if not identity and ARGV[1] ~= '' then return redis.error_reply('-DFVANISHED there is no store') end
if identity and ARGV[1] ~= '' and identity ~= ARGV[1] then return redis.error_reply('-DFREPLACED another store') end

-- Another server than the last that wrote here, or the same after a restart: what it has may be less than what the other had told
-- to readers, or acknowledged to writers. So the revisions in which the two could differ are left out, and everybody reads anew.
local server = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
if not identity then
    identity = ARGV[2]
    redis.call('HSET', store, 'identity', identity, 'layout', ARGV[3], 'revision', 0, 'forgotten', 0, 'server', server)
elseif server ~= facts[5] then
    revision = revision + LEAP
    forgotten = revision
    redis.call('HSET', store, 'server', server, 'revision', whole(revision), 'forgotten', whole(forgotten))
end

local touched = {}

local function detach(name)
    local lease = redis.call('HGET', root .. ':leased', name)
    if lease then
        redis.call('SREM', root .. ':lease:' .. lease, name)
        redis.call('HDEL', root .. ':leased', name)
    end
end

local function put(scope, field, data, lease)
    local name = scope .. '\0' .. field
    detach(name)
    redis.call('HSET', rows_of(scope), field, data)
    redis.call('ZADD', log_of(scope), whole(revision), field)
    redis.call('ZREM', root .. ':graves', name)
    if lease ~= '' then
        redis.call('HSET', root .. ':leased', name, lease)
        redis.call('SADD', root .. ':lease:' .. lease, name)
    end
    touched[scope] = true
end

local function bury(scope, field)
    local name = scope .. '\0' .. field
    if redis.call('HDEL', rows_of(scope), field) == 0 then
        -- not there: unless somebody else took it away, which nobody was told
        if not redis.call('ZSCORE', log_of(scope), field) or redis.call('ZSCORE', root .. ':graves', name) then return end
    end
    detach(name)
    redis.call('ZADD', log_of(scope), whole(revision), field)
    redis.call('ZADD', root .. ':graves', whole(revision), name)
    touched[scope] = true
end

-- Forget the oldest deletions but so many.
local function prune(history)
    local extra = math.min(PRUNE, redis.call('ZCARD', root .. ':graves') - history)
    if extra <= 0 then return end
    local old = redis.call('ZRANGE', root .. ':graves', 0, extra - 1, 'WITHSCORES')
    for i = 1, #old, 2 do
        local scope, field = string.match(old[i], '^([^%z]*)%z(.*)$')
        -- a chassis may not: somebody will come who may (store/rights.py)
        if not redis.acl_check_cmd('ZREM', log_of(scope), field) then break end
        forgotten = math.max(forgotten, tonumber(old[i + 1]))
        redis.call('ZREM', root .. ':graves', old[i])
        redis.call('ZREM', log_of(scope), field)
        if redis.call('EXISTS', log_of(scope)) == 0 then redis.call('ZREM', root .. ':scopes', scope) end
    end
    redis.call('HSET', store, 'forgotten', whole(forgotten))
end

-- End a commit: file what it touched, and wake whoever watches that.
local function seal()
    redis.call('HSET', store, 'revision', whole(revision))
    for scope in pairs(touched) do
        redis.call('ZADD', root .. ':scopes', whole(revision), scope)
        redis.call('PUBLISH', root .. ':wake:' .. scope, whole(revision))
    end
    touched = {}
end

-- Drop a lease, and delete what hung on it in one commit.
local function end_lease(lease)
    redis.call('ZREM', root .. ':leases', lease)
    redis.call('HDEL', root .. ':ttls', lease)
    local names = redis.call('SMEMBERS', root .. ':lease:' .. lease)
    if #names == 0 then return end
    revision = revision + 1
    for _, name in ipairs(names) do
        local scope, field = string.match(name, '^([^%z]*)%z(.*)$')
        bury(scope, field)
    end
    seal()
end

-- Time passes for leases only while somebody looks: neither an outage nor a leap of this server's clock ends them all.
local passed = now - tonumber(facts[6] or now)
if passed < 0 or passed > GRACE then
    local gift = passed < 0 and passed or passed - COUNTED
    for _, lease in ipairs(redis.call('ZRANGE', root .. ':leases', 0, -1)) do
        redis.call('ZINCRBY', root .. ':leases', gift, lease)
    end
end
redis.call('HSET', store, 'seen', whole(now))
for _, lease in ipairs(redis.call('ZRANGE', root .. ':leases', '-inf', whole(now), 'BYSCORE', 'LIMIT', 0, REAP)) do
    end_lease(lease)
end
