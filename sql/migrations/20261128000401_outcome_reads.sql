-- migrate:up

set local role churn_owner;

-- The offsets of one reading of the outcomes topic, and the bounds that it validates times by. Recorded before it reads,
-- so that a reading that was cut off goes on with the same bounds.
create table outcome_reads (
    topic_id text not null,
    kafka_partition integer not null,
    start_offset bigint not null,
    end_offset bigint not null check (end_offset > start_offset),
    accepts_from timestamptz not null,
    accepts_until timestamptz not null,
    opened timestamptz not null default now(),
    primary key (topic_id, kafka_partition, start_offset)
);
create index outcome_reads_opened on outcome_reads (opened);
comment on table outcome_reads is 'Offsets of each reading of the outcomes topic, with the times that an outcome may have';
comment on column outcome_reads.accepts_from is 'Earliest time of an outcome: an earlier one is in refused_outcomes';
comment on column outcome_reads.accepts_until is 'Latest time of an outcome: a later one is in refused_outcomes';

-- Offsets that somebody accepted as lost, or does not want read.
create table outcome_skips (
    topic_id text not null,
    kafka_partition integer not null,
    start_offset bigint not null,
    end_offset bigint not null check (end_offset > start_offset),
    reason text not null,
    skipped_at timestamptz not null default now(),
    primary key (topic_id, kafka_partition, start_offset)
);
comment on table outcome_skips is 'Offsets of the outcomes topic that are never read, with the reason';

create index refused_outcomes_received_at on refused_outcomes (received_at);

reset role;

-- migrate:down

set local role churn_owner;
drop index refused_outcomes_received_at;
drop table outcome_skips, outcome_reads;
reset role;
