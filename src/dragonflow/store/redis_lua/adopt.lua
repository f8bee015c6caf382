-- Another store was put in the place of the one that the caller knew up to revision ARGV[5]: make it carry on those revisions,
-- so that they never go back, and cut the history off above all that is known of the old one.
if forgotten <= tonumber(ARGV[5]) then
    revision = math.max(revision, tonumber(ARGV[5])) + 1
    redis.call('HSET', store, 'revision', whole(revision), 'forgotten', whole(revision))
end
return {'OK', revision, identity}
