-- migrate:up

set local role churn_owner;

-- What a model version learned from, in bins: what drift is measured against. Not in model_versions, which every commit
-- of the stream reads.
create table model_references (
    version integer primary key references model_versions,
    reference jsonb not null
);
comment on table model_references is 'Bins of every watched feature and of the score in the rows that a model version learned from';

create table drift_hourly (
    hour_timestamp timestamptz not null,
    model_version integer not null,
    feature text not null,
    sampled bigint not null,
    weight double precision not null,
    counts bigint[] not null,
    outside bigint not null,
    psi double precision,
    p_value double precision,
    verdict text not null,
    missing_rate double precision not null,
    out_of_range_rate double precision not null,
    version bigint not null,
    updated_at timestamptz not null default now(),
    primary key (hour_timestamp, model_version, feature)
);
comment on table drift_hourly is 'How far each feature is from what the model learned from, per hour of the event, UTC';
comment on column drift_hourly.counts is 'Sampled predictions in each bin of model_references; the last bin holds nulls';
comment on column drift_hourly.weight is 'How many predictions each sampled one stands for';
comment on column drift_hourly.version is 'The version in dirty_hours that this includes';

create table drift_daily (
    date date not null,
    model_version integer not null,
    feature text not null,
    sampled bigint not null,
    weight double precision not null,
    counts bigint[] not null,
    outside bigint not null,
    psi double precision,
    p_value double precision,
    verdict text not null,
    missing_rate double precision not null,
    out_of_range_rate double precision not null,
    version bigint not null,
    updated_at timestamptz not null default now(),
    primary key (date, model_version, feature)
);
comment on table drift_daily is 'The same per day, UTC: the sum of its hours';
comment on column drift_daily.version is 'Sum of the versions of the hours that this includes';

-- The topic of outcomes is read into here; a message is known by its position, which makes it count once.
create table outcome_positions (
    topic_id text not null,
    kafka_partition integer not null,
    topic text not null,
    next_offset bigint not null check (next_offset >= 0),
    primary key (topic_id, kafka_partition)
);
create table customer_outcomes (
    topic_id text not null,
    kafka_partition integer not null,
    kafka_offset bigint not null,
    event_id uuid,
    customer_id bigint,
    churned smallint not null check (churned in (0, 1)),
    outcome_timestamp timestamptz not null,
    received_at timestamptz not null default now(),
    primary key (topic_id, kafka_partition, kafka_offset),
    constraint of_an_event_or_a_customer check (event_id is not null or customer_id is not null)
);
create index customer_outcomes_event_id on customer_outcomes (event_id) where event_id is not null;
create index customer_outcomes_customer_id on customer_outcomes (customer_id) where event_id is null;
create index customer_outcomes_received_at on customer_outcomes (received_at);
comment on table customer_outcomes is 'Who left and who stayed, as the outcomes topic said later: of an event, or of a customer';
create table refused_outcomes (
    topic_id text not null,
    kafka_partition integer not null,
    kafka_offset bigint not null,
    reason text not null,
    payload bytea,
    received_at timestamptz not null default now(),
    primary key (topic_id, kafka_partition, kafka_offset)
);
comment on table refused_outcomes is 'Messages of the outcomes topic that say nothing, with the reason';

create table live_performance (
    date date not null,
    model_version integer not null,
    window_days integer not null,
    labelled bigint not null,
    churned bigint not null,
    roc_auc double precision,
    roc_auc_error double precision,
    expected_roc_auc double precision,
    "precision" double precision,
    recall double precision,
    brier double precision not null,
    ece double precision not null,
    mean_score double precision not null,
    churn_rate double precision not null,
    updated_at timestamptz not null default now(),
    primary key (date, model_version)
);
comment on table live_performance is 'Per day and model version: predictions of the window_days up to it whose outcome is known';
comment on column live_performance.expected_roc_auc is 'What the version reached out of fold when it was trained';

-- Labels are few where a bank learns them later; only block ranges that hold some are read.
create index churn_predictions_labelled on churn_predictions using brin (event_timestamp)
    with (pages_per_range = 32, autosummarize = on) where true_churn_label is not null;

reset role;

-- migrate:down

set local role churn_owner;
drop index churn_predictions_labelled;
drop table live_performance, refused_outcomes, customer_outcomes, outcome_positions, drift_daily, drift_hourly,
    model_references;
reset role;
