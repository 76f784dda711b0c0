-- migrate:up

set local role churn_owner;

-- Who works on this database: each environment's sensor says so at every tick. Two of them would take turns at the same
-- stream, each with its own model, topics and settings; 'churn prepare' refuses to begin beside another.
create table environments (
    environment text primary key,
    seen timestamptz not null default now()
);
comment on column environments.seen is 'When its sensor last looked whether events wait';

reset role;

-- migrate:down

set local role churn_owner;
drop table environments;
reset role;
