-- migrate:up
create extension if not exists btree_gist;

-- A topic is known by Kafka's id: deleted and made anew it is another topic.
create table stream_topics (
    topic_id text primary key,
    topic text not null,
    first_seen timestamptz not null default now()
);

-- Next offset to read. Moves over transaction markers too, which hold offsets but no events.
create table stream_positions (
    topic_id text not null references stream_topics,
    kafka_partition integer not null,
    next_offset bigint not null check (next_offset >= 0),
    primary key (topic_id, kafka_partition)
) with (fillfactor = 50);

-- planned: opened is null; open: closed is null; closed. A batch key is also a prediction partition in Dagster.
create table stream_batches (
    batch text primary key,
    planned timestamptz not null default now(),
    opened timestamptz,
    accepts_from timestamptz,
    accepts_until timestamptz,
    last_commit timestamptz,
    closed timestamptz,
    run_id text,
    model_version integer,
    events bigint not null default 0,
    predictions bigint not null default 0,
    dead_letters bigint not null default 0,
    duplicates bigint not null default 0,
    commits integer not null default 0,
    replays integer not null default 0,
    reported boolean not null default false,
    constraint conservation check (events = predictions + dead_letters + duplicates)
) with (fillfactor = 50);
create index stream_batches_unfinished on stream_batches (planned) where closed is null or not reported;
comment on column stream_batches.accepts_from is 'Earliest event_timestamp of this batch; an event from before is a dead letter';
comment on column stream_batches.accepts_until is 'Latest event_timestamp of this batch; recorded, so that a replay judges alike';
comment on column stream_batches.model_version is 'Model version of the latest commit or replay';
comment on column stream_batches.reported is 'Whether Dagster is known to hold the materialization of this batch';

create table stream_ranges (
    batch text not null references stream_batches,
    topic_id text not null references stream_topics,
    kafka_partition integer not null,
    start_offset bigint not null,
    end_offset bigint not null check (end_offset > start_offset),
    primary key (batch, topic_id, kafka_partition),
    constraint no_offset_in_two_batches exclude using gist (
        topic_id with =, kafka_partition with =, int8range(start_offset, end_offset) with &&
    )
) with (fillfactor = 50);

create table dead_letter_events (
    topic_id text not null references stream_topics,
    kafka_partition integer not null,
    kafka_offset bigint not null,
    batch text not null references stream_batches,
    topic text not null,
    reason text not null,
    payload bytea,
    kafka_timestamp timestamptz,
    received_at timestamptz not null,
    primary key (topic_id, kafka_partition, kafka_offset)
);
create index dead_letter_events_batch on dead_letter_events (batch);
comment on column dead_letter_events.payload is 'The message value as it was read; null for a tombstone';

-- Sums per batch and hour of the event: an hour is the sum of its rows here, so its cost grows with batches, not events.
create table churn_batch_hours (
    batch text not null,
    hour_timestamp timestamptz not null,
    total_predictions bigint not null,
    churn_count bigint not null,
    risk_sum double precision not null,
    high_risk_count bigint not null,
    age_count bigint not null,
    age_sum double precision not null,
    balance_sum double precision not null,
    tenure_sum double precision not null,
    primary key (hour_timestamp, batch)
) with (fillfactor = 50);
create index churn_batch_hours_batch on churn_batch_hours (batch);

-- Counts every change to an hour's sums. The hour is dirty while churn_metrics_hourly holds an older version, or none.
create table dirty_hours (
    hour_timestamp timestamptz primary key,
    version bigint not null
) with (fillfactor = 50);

-- migrate:down
drop table dirty_hours, churn_batch_hours, dead_letter_events, stream_ranges, stream_batches, stream_positions,
    stream_topics;
