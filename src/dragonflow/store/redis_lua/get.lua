-- One record. ARGV: scope, field. Returns the head of a reading (see read.lua), the data or nil, and its revision.
return {head(), redis.call('HGET', rows_of(ARGV[1]), ARGV[2]), redis.call('ZSCORE', log_of(ARGV[1]), ARGV[2])}
