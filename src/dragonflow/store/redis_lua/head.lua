-- What all scripts share: where things lie, and the store's own facts.
--
--   ROOT:store        hash   identity layout revision forgotten server seen
--   ROOT:rows:SCOPE   hash   KIND\0ID -> data                     the living
--   ROOT:log:SCOPE    zset   KIND\0ID by its last revision        the living, and the deleted that are still remembered
--   ROOT:scopes       zset   SCOPE by the last revision in it     those that have a log
--   ROOT:graves       zset   SCOPE\0KIND\0ID by the revision of its deletion
--   ROOT:leases       zset   lease by its deadline, in ms of this server's clock
--   ROOT:ttls         hash   lease -> ms
--   ROOT:lease:LEASE  set    SCOPE\0KIND\0ID that hang on it
--   ROOT:leased       hash   SCOPE\0KIND\0ID -> lease
--
-- Revisions are whole numbers below 2^53, which a double and a score hold exactly.
local root = KEYS[1]
local store = root .. ':store'

local function log_of(scope) return root .. ':log:' .. scope end
local function rows_of(scope) return root .. ':rows:' .. scope end
local function whole(number) return string.format('%.0f', number) end

local facts = redis.call('HMGET', store, 'identity', 'layout', 'revision', 'forgotten', 'server', 'seen')
local identity, layout = facts[1], facts[2]
local revision, forgotten = tonumber(facts[3] or 0), tonumber(facts[4] or 0)

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
