-- migrate:up

set local role churn_owner;

-- What Spark has scored and no batch has yet. The executors write it, task by task; one transaction of the platform then
-- moves it to churn_predictions and dead_letter_events. The rows are scored again if they are lost, so the tables are
-- unlogged: they cost no write-ahead log, and a crash of PostgreSQL empties them.
create table spark_attempts (
    attempt uuid primary key,
    batch text not null,
    model_version integer not null,
    erasures bigint not null,
    began timestamptz not null default now(),
    finished timestamptz,
    events bigint,
    check ((finished is null) = (events is null))
);
comment on table spark_attempts is
    'Attempts of Spark to score the offset ranges of a batch, until the batch has their rows or they are given up';
comment on column spark_attempts.attempt is 'Id of the attempt';
comment on column spark_attempts.batch is 'Batch whose ranges are scored';
comment on column spark_attempts.model_version is 'Model version that scores';
comment on column spark_attempts.erasures is
    'Version of the list of erased customers (erasure_state) whose events are left out; a later one makes the attempt useless';
comment on column spark_attempts.began is 'When the attempt began';
comment on column spark_attempts.finished is 'When Spark had scored all ranges; null before';
comment on column spark_attempts.events is 'Events that Spark read, as its driver counts them; null before';

create unlogged table spark_tasks (
    attempt uuid not null references spark_attempts on delete cascade,
    kafka_partition integer not null,
    first_offset bigint not null,
    predictions bigint not null default 0,
    dead_letters bigint not null default 0,
    erased bigint not null default 0,
    primary key (attempt, kafka_partition, first_offset)
);
comment on table spark_tasks is
    'Spark''s tasks whose rows are staged. Spark repeats tasks, so each is written by one transaction, once';
comment on column spark_tasks.attempt is 'Attempt in spark_attempts';
comment on column spark_tasks.kafka_partition is 'Partition of the events topic that the task has read';
comment on column spark_tasks.first_offset is 'Offset of its first event';
comment on column spark_tasks.predictions is 'Events that it has scored';
comment on column spark_tasks.dead_letters is 'Events that it could not score';
comment on column spark_tasks.erased is 'Events of erased customers, of which nothing is stored';

create unlogged table spark_predictions (
    attempt uuid not null references spark_attempts on delete cascade,
    event_id uuid not null,
    event_ref text,
    customer_id bigint /* customer id */ not null,
    prediction smallint not null,
    risk_score real not null,
    predicted_at timestamptz not null,
    event_timestamp timestamptz not null,
    model_version integer not null,
    -- customer columns of spark_predictions
    true_churn_label smallint,
    batch text not null,
    kafka_partition integer not null,
    kafka_offset bigint not null,
    timestamp_given smallint not null,
    primary key (attempt, kafka_partition, kafka_offset)
);
comment on table spark_predictions is 'Predictions of Spark that are not in churn_predictions yet';
comment on column spark_predictions.attempt is 'Attempt in spark_attempts';
comment on column spark_predictions.event_id is 'As in churn_predictions';
comment on column spark_predictions.event_ref is 'The event id as sent, if it was not a UUID';
comment on column spark_predictions.customer_id is 'Id of the customer';
comment on column spark_predictions.prediction is 'As in churn_predictions';
comment on column spark_predictions.risk_score is 'Probability of churn, 0 to 1';
comment on column spark_predictions.predicted_at is 'When the event was scored';
comment on column spark_predictions.event_timestamp is 'Time of the event';
comment on column spark_predictions.model_version is 'Model version that scored the event';
comment on column spark_predictions.true_churn_label is '1 if the customer left, 0 if the customer stayed; null if unknown';
comment on column spark_predictions.batch is 'Batch whose ranges are scored';
comment on column spark_predictions.kafka_partition is 'Partition of the events topic';
comment on column spark_predictions.kafka_offset is 'Offset in the partition';
comment on column spark_predictions.timestamp_given is '1 if the event has a time of its own; 0 if event_timestamp is Kafka''s';

create unlogged table spark_dead_letters (
    attempt uuid not null references spark_attempts on delete cascade,
    kafka_partition integer not null,
    kafka_offset bigint not null,
    reason text not null,
    payload bytea,
    kafka_timestamp timestamptz,
    primary key (attempt, kafka_partition, kafka_offset)
);
comment on table spark_dead_letters is 'Dead letters that Spark found and that are not in dead_letter_events yet';
comment on column spark_dead_letters.attempt is 'Attempt in spark_attempts';
comment on column spark_dead_letters.kafka_partition is 'Partition of the events topic';
comment on column spark_dead_letters.kafka_offset is 'Offset in the partition';
comment on column spark_dead_letters.reason is 'As in dead_letter_events';
comment on column spark_dead_letters.payload is 'Bytes of the message';
comment on column spark_dead_letters.kafka_timestamp is 'Kafka''s timestamp of the message';

reset role;

-- migrate:down

set local role churn_owner;
drop table spark_dead_letters, spark_predictions, spark_tasks, spark_attempts;
reset role;
