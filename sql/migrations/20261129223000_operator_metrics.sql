-- migrate:up

set local role churn_owner;

-- Counters of Prometheus must never fall, and a replay or an erasure changes the counts of a batch. These columns keep
-- what the stream itself counted.
alter table stream_batches
    add column read_predictions bigint,
    add column read_dead_letters bigint,
    add column read_duplicates bigint,
    add column read_erased bigint;
comment on column stream_batches.read_predictions is
    'Events that were scored when the stream read them; null before the first replay or erasure, when predictions is this number';
comment on column stream_batches.read_dead_letters is
    'Events that could not be scored when the stream read them; null before the first replay or erasure';
comment on column stream_batches.read_duplicates is
    'Events whose id was already scored when the stream read them; null before the first replay or erasure';
comment on column stream_batches.read_erased is
    'Events of customers who were erased when the stream read them; null before the first replay or erasure';
-- The worker adds up the batches that were closed since it looked last.
create index stream_batches_closed on stream_batches (closed);

alter table stream_lag
    add column held bigint,
    add column unpublished bigint,
    add column outcomes_waiting bigint;
comment on column stream_lag.held is
    'Offsets of the events topic that an open transaction of another producer holds back; null if Kafka did not answer';
comment on column stream_lag.unpublished is
    'Offsets that were read and whose predictions are not published; null if that is not known';
comment on column stream_lag.outcomes_waiting is
    'Offsets of the outcomes topic that were not read; null if there is no such topic, or Kafka did not answer';

create table stream_totals (
    only_row boolean primary key default true check (only_row),
    latency_counts bigint[] not null,
    latency_seconds double precision not null,
    commit_counts bigint[] not null,
    commit_seconds double precision not null
) with (fillfactor = 50);
comment on table stream_totals is
    'Latencies of the stream since the resident worker began to add them up; they only grow';
comment on column stream_totals.only_row is 'There is at most one row';
comment on column stream_totals.latency_counts is
    'Predictions by milliseconds from event_timestamp to the commit of the row, with the bounds of stream_minutes.latency_counts';
comment on column stream_totals.latency_seconds is 'Sum of these times';
comment on column stream_totals.commit_counts is
    'Commits by milliseconds from the scoring of the last events in it to the commit, with the same bounds; zeros if PostgreSQL does not record the times of commits';
comment on column stream_totals.commit_seconds is 'Sum of these times';

create table dead_letter_totals (
    kind text primary key,
    dead_letters bigint not null
) with (fillfactor = 50);
comment on table dead_letter_totals is
    'Dead letters by kind since the resident worker began to count them; they only grow';
comment on column dead_letter_totals.kind is
    'The reason without values, as dead_letter_kind() returns it; other for the kinds after the first 50';
comment on column dead_letter_totals.dead_letters is 'How many were read';

reset role;

-- migrate:down

set local role churn_owner;
drop table stream_totals, dead_letter_totals;
alter table stream_lag drop column held, drop column unpublished, drop column outcomes_waiting;
drop index stream_batches_closed;
alter table stream_batches
    drop column read_predictions, drop column read_dead_letters, drop column read_duplicates,
    drop column read_erased;
reset role;
