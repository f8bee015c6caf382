-- Check, then write; all or nothing.
--
-- ARGV from 6: the number of checks, each scope, field, revision; then the writes, each scope, field, P(ut) or D(elete), data,
-- lease or ''. Returns {'OK', revision, identity}, {'CONFLICT', number of the check, the revision found}, {'GONE', lease}.
local at = 7
for number = 1, tonumber(ARGV[6]) do
    local scope, field = ARGV[at], ARGV[at + 1]
    local found = '0'
    if redis.call('HEXISTS', rows_of(scope), field) == 1 then found = redis.call('ZSCORE', log_of(scope), field) or found end
    if tonumber(found) ~= tonumber(ARGV[at + 2]) then return {'CONFLICT', number, tonumber(found)} end
    at = at + 3
end
for i = at, #ARGV, 5 do
    local lease = ARGV[i + 4]
    if lease ~= '' and not redis.call('ZSCORE', root .. ':leases', lease) then return {'GONE', lease} end
end
-- What fails in the midst of a script isn't undone, so rights (store/rights.py) are asked for before.
local asked = {}
for i = at, #ARGV, 5 do
    local scope = ARGV[i]
    if not asked[scope] then
        asked[scope] = true
        local may = redis.acl_check_cmd('HDEL', rows_of(scope), '') and redis.acl_check_cmd('ZADD', log_of(scope), '0', '')
        if not may then return redis.error_reply('-NOPERM no right to scope ' .. scope) end
    end
end
if at <= #ARGV then
    revision = revision + 1
    for i = at, #ARGV, 5 do
        if ARGV[i + 2] == 'P' then put(ARGV[i], ARGV[i + 1], ARGV[i + 3], ARGV[i + 4]) else bury(ARGV[i], ARGV[i + 1]) end
    end
    seal()
    prune(tonumber(ARGV[4]))
end
return {'OK', revision, identity}
