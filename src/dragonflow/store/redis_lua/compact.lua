-- Forget deletions up to now, some at a time. Returns {'OK', revision, identity, how many are left}.
prune(0)
local left = redis.call('ZCARD', root .. ':graves')
if left == 0 then redis.call('HSET', store, 'forgotten', whole(revision)) end
return {'OK', revision, identity, left}
