-- Another store was put in the place of the one that the caller knew up to revision ARGV[6]: make it carry on those revisions,
-- so that they never go back, and cut the history off above all that is known of the old one.
if forgotten <= tonumber(ARGV[6]) then
    revision = math.max(revision, tonumber(ARGV[6])) + 1
    redis.call('HSET', store, 'revision', whole(revision), 'forgotten', whole(revision))
end
return {'OK', revision, identity}
