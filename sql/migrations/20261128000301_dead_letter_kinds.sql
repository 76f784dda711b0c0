-- migrate:up

set local role churn_owner;

-- What dead letters have in common: their reason without what varies from one to the next. The value that was found and
-- all behind it, quoted bytes, places, sizes, times.
create function dead_letter_kind(reason text) returns text
language sql immutable strict parallel safe
begin atomic
    select regexp_replace(regexp_replace(regexp_replace(regexp_replace(regexp_replace(regexp_replace(regexp_replace(
        reason,
        '(, got|; found:) .*$', '\1 …'),
        '(near|follows:|after|bytes:|\d:) ''.*''', '\1 ''…''', 'g'),
        '[-+]?\d{4,}-\d\d-\d\dT[0-9:.]+(Z|[+-][0-9:]+)?', '…', 'g'),
        '\m(batch) [^ ,]+,', '\1 …,', 'g'),
        '\m(partition|offset|byte|after) \d+', '\1 …', 'g'),
        '-?\d+ (bytes|ms)\M', '… \1', 'g'),
        '(is 0x[0-9a-f]+ \([^)]*\)|begins with( [0-9a-f]{2})+\))', '…', 'g');
end;
comment on function dead_letter_kind is 'The reason of a dead letter without what varies from one letter to the next';
grant execute on function dead_letter_kind to churn_reader;

reset role;

-- migrate:down

set local role churn_owner;
drop function dead_letter_kind;
reset role;
