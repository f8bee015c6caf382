-- What is done to leases. ARGV from 5: grant LEASE MS, keep LEASE, revoke LEASE, or look, which only ends those that are due.
--
-- Returns {'OK', revision, identity} or {'GONE', lease}.
local what, lease = ARGV[5], ARGV[6]
if what == 'grant' then
    redis.call('HSET', root .. ':ttls', lease, ARGV[7])
    redis.call('ZADD', root .. ':leases', whole(now + tonumber(ARGV[7])), lease)
elseif what == 'keep' then
    local ttl = redis.call('HGET', root .. ':ttls', lease)
    if not ttl then return {'GONE', lease} end
    redis.call('ZADD', root .. ':leases', whole(now + tonumber(ttl)), lease)
elseif what == 'revoke' then
    end_lease(lease)
end
return {'OK', revision, identity}
