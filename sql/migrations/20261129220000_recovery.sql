-- migrate:up

set local role churn_owner;

-- After the database was restored to an earlier state, 'churn recover' records what Kafka knows and the ledger has lost.

create table stream_recoveries (
    recovery bigint generated always as identity primary key,
    topic_id text not null references stream_topics,
    kafka_partition integer not null,
    next_offset bigint not null,
    published_to bigint not null check (published_to > next_offset),
    recovered_at timestamptz not null default now()
);
create index stream_recoveries_place on stream_recoveries (topic_id, kafka_partition);
comment on table stream_recoveries is
    'Partitions whose predictions had been published further than the restored ledger has read, found by churn recover';
comment on column stream_recoveries.recovery is 'Number of the record, in order';
comment on column stream_recoveries.topic_id is 'Kafka''s id of the topic; a topic that is created again has another id';
comment on column stream_recoveries.kafka_partition is 'Partition of the topic';
comment on column stream_recoveries.next_offset is 'Next offset to read in the restored ledger';
comment on column stream_recoveries.published_to is
    'Offset up to which predictions had been published; the events between are scored again';
comment on column stream_recoveries.recovered_at is 'When the record was made';

-- No customer id and no values of a customer, so that nothing of a customer is in this table alone.
create table recovered_predictions (
    event_id uuid primary key,
    risk_score real not null,
    model_version integer not null,
    batch text not null,
    kafka_partition integer not null,
    kafka_offset bigint not null,
    published_at timestamptz not null,
    recovered_at timestamptz not null default now()
);
comment on table recovered_predictions is
    'Predictions in the predictions topic whose rows a restore of the database has lost; they are not published again';
comment on column recovered_predictions.event_id is 'Event of the prediction';
comment on column recovered_predictions.risk_score is 'Published probability of churn, 0 to 1';
comment on column recovered_predictions.model_version is 'Model version that made the published prediction';
comment on column recovered_predictions.batch is 'Batch that had read the event; the restored ledger does not have it, or not this offset';
comment on column recovered_predictions.kafka_partition is 'Partition of the events topic';
comment on column recovered_predictions.kafka_offset is 'Offset in the partition';
comment on column recovered_predictions.published_at is 'When the prediction was published';
comment on column recovered_predictions.recovered_at is 'When churn recover found the prediction';

reset role;

-- migrate:down

drop table recovered_predictions;
drop table stream_recoveries;
