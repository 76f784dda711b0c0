-- migrate:up

-- Ranges tile what was read: each begins where the one before it ended. Between them lie transaction markers at most,
-- which belong to the range that follows.
update stream_ranges r set start_offset = before.end_offset
from (
    select batch, topic_id, kafka_partition,
        lag(end_offset) over (partition by topic_id, kafka_partition order by start_offset) as end_offset
    from stream_ranges
) as before
where (r.batch, r.topic_id, r.kafka_partition) = (before.batch, before.topic_id, before.kafka_partition)
  and before.end_offset < r.start_offset;

alter table stream_positions
    add column first_offset bigint, add column covered_to bigint, add column published_to bigint;
update stream_positions p set
    first_offset = coalesce(r.first_offset, p.next_offset),
    covered_to = coalesce(r.covered_to, p.next_offset),
    published_to = p.next_offset
from (
    select topic_id, kafka_partition,
        (select min(start_offset) from stream_ranges r
         where r.topic_id = q.topic_id and r.kafka_partition = q.kafka_partition) as first_offset,
        (select max(end_offset) from stream_ranges r
         where r.topic_id = q.topic_id and r.kafka_partition = q.kafka_partition) as covered_to
    from stream_positions q
) as r
where p.topic_id = r.topic_id and p.kafka_partition = r.kafka_partition;
alter table stream_positions
    alter column first_offset set not null, alter column covered_to set not null, alter column published_to set not null;
comment on column stream_positions.first_offset is 'Where the stream began to read this partition';
comment on column stream_positions.covered_to is 'End of its last range or skip; from there to next_offset lie markers only';
comment on column stream_positions.published_to is 'Predictions up to here were published when a batch last closed; perhaps more';

-- Offsets that somebody accepted as lost; with the ranges they tile a partition.
create table stream_skips (
    topic_id text not null references stream_topics,
    kafka_partition integer not null,
    start_offset bigint not null,
    end_offset bigint not null check (end_offset > start_offset),
    reason text not null,
    skipped_at timestamptz not null default now(),
    primary key (topic_id, kafka_partition, start_offset)
);

-- By the topic's name: a stream stays paused when its topic is made anew.
create table stream_pauses (
    topic text primary key,
    since timestamptz not null default now()
);

alter table stream_batches add column archived timestamptz, add column archive text;
comment on column stream_batches.archived is 'When its predictions left churn_predictions; such a batch is not replayed';
comment on column stream_batches.archive is 'Parquet file that holds them since';

alter table dead_letter_events
    add column retry_event_id uuid, add column retried_at timestamptz, add column resolved_at timestamptz;
create index dead_letter_events_unresolved on dead_letter_events (retry_event_id)
    where retry_event_id is not null and resolved_at is null;
comment on column dead_letter_events.retry_event_id is 'Id of the corrected event that was sent for this one';
comment on column dead_letter_events.resolved_at is 'When that event was scored';

-- migrate:down
alter table dead_letter_events drop column retry_event_id, drop column retried_at, drop column resolved_at;
alter table stream_batches drop column archived, drop column archive;
drop table stream_pauses, stream_skips;
alter table stream_positions drop column first_offset, drop column covered_to, drop column published_to;
