-- What is done to leases. ARGV from 6: grant LEASE MS, keep LEASE, revoke LEASE, or look, which only ends those that are due.
--
-- Returns {'OK', revision, identity} or {'GONE', lease}.
local what, lease = ARGV[6], ARGV[7]
if what == 'grant' then
    redis.call('HSET', root .. ':ttls', lease, ARGV[8])
    redis.call('ZADD', root .. ':leases', whole(now + tonumber(ARGV[8])), lease)
elseif what == 'keep' then
    local ttl = redis.call('HGET', root .. ':ttls', lease)
    if not ttl then return {'GONE', lease} end
    redis.call('ZADD', root .. ':leases', whole(now + tonumber(ttl)), lease)
elseif what == 'revoke' then
    end_lease(lease)
end
return {'OK', revision, identity}
