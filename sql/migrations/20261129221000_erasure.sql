-- migrate:up

set local role churn_owner;


-- Erased customers ---------------------------------------------------------------------------------------------------

-- An erased customer is known only by a keyed hash, so the list names nobody. The key is random and created with the
-- first erasure. Without the key, ids could be guessed: there are few enough of them to try all.
create table erasure_state (
    only_row boolean primary key default true check (only_row),
    key bytea not null check (length(key) >= 32),
    version bigint not null default 0,
    created_at timestamptz not null default now()
);
comment on table erasure_state is
    'Key of the hashes in erased_customers, and how often that list has grown. What writes rows of customers locks this table against erasures';
comment on column erasure_state.only_row is 'Always true, so that the table has at most one row';
comment on column erasure_state.key is 'Random secret, 32 bytes';
comment on column erasure_state.version is
    'How often erased_customers has grown; a commit of the stream that was decoded with another version is decoded again';
comment on column erasure_state.created_at is 'When the key was created';
revoke all on erasure_state from churn_reader;

create table erased_customers (
    hash bytea primary key check (length(hash) = 32),
    erased_at timestamptz not null default now()
);
comment on table erased_customers is
    'Customers who were erased. Events, outcomes and rows of files about them are counted and not stored';
comment on column erased_customers.hash is
    'HMAC-SHA256 of the customer''s id (decimal digits or UTF-8 text) with the key in erasure_state';
comment on column erased_customers.erased_at is 'When the customer was first erased';
-- What was erased stays erased: the platform's own login cannot shorten the list.
revoke update, delete on erased_customers from churn_writer;

-- The audit trail holds no personal data.
create table erasures (
    erasure bigint generated always as identity primary key,
    began timestamptz not null default now(),
    finished timestamptz,
    erased_by text not null,
    login text not null default session_user,
    counts jsonb not null
);
comment on table erasures is 'Every erasure of a customer: who did it, when, and how much was erased; not whom';
comment on column erasures.erasure is 'Number of the erasure, in order';
comment on column erasures.began is 'When the rows were deleted';
comment on column erasures.finished is
    'When archive, files and Dagster''s metadata were done as well; null if the erasure was interrupted: then repeat it';
comment on column erasures.erased_by is 'Who did it, as the command says; else the user of the system';
comment on column erasures.login is 'Login of the database that did it';
comment on column erasures.counts is 'Number of rows or entries by place';
revoke update, delete on erasures from churn_writer;
grant update (finished, counts) on erasures to churn_writer;

-- The numbers of a batch stay true when rows of a customer are erased.
alter table stream_batches
    add column erased bigint not null default 0,
    drop constraint conservation,
    add constraint conservation check (events = predictions + dead_letters + duplicates + erased);
comment on column stream_batches.events is 'Events read: predictions + dead_letters + duplicates + erased';
comment on column stream_batches.erased is
    'Events of erased customers: read after the erasure, or stored before it and deleted';

create function fail_with_other_erasures(version bigint, expected bigint) returns void language plpgsql as $$
begin
    raise exception 'customers were erased: the list has version %, and the commit was made with %', version, expected
        using errcode = 'CH002';
end
$$;
comment on function fail_with_other_erasures is
    'Fail, because a commit was decoded without knowing all customers who are erased';
revoke all on function fail_with_other_erasures from public;
grant execute on function fail_with_other_erasures to churn_writer;

reset role;

-- migrate:down

set local role churn_owner;
drop function fail_with_other_erasures;
update stream_batches set events = events - erased where erased > 0;
alter table stream_batches
    drop constraint conservation,
    drop column erased,
    add constraint conservation check (events = predictions + dead_letters + duplicates);
drop table erasures, erased_customers, erasure_state;
reset role;
