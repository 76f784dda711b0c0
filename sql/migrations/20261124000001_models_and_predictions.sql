-- migrate:up

-- Dagster's and MLflow's own tables live beside the platform's.
create schema if not exists dagster;
create schema if not exists mlflow;

-- Which model is champion is decided here; MLflow's alias follows.
create table model_versions (
    version integer primary key,
    uri text not null,
    run_id text not null,
    metrics jsonb not null,
    registered_at timestamptz not null default now(),
    promoted_at timestamptz,
    retired_at timestamptz
);
create unique index model_versions_champion on model_versions ((true))
    where promoted_at is not null and retired_at is null;
comment on table model_versions is 'Model bundles; the one promoted and not retired is the champion that scores the stream';

create table churn_predictions (
    event_id uuid primary key,
    event_ref text,
    customer_id bigint not null,
    prediction smallint not null,
    risk_score real not null,
    probability real generated always as (risk_score) stored,
    predicted_at timestamptz not null,
    event_timestamp timestamptz not null,
    model_version integer not null,
    credit_score smallint not null,
    geography text not null,
    gender text not null,
    age real,
    tenure smallint not null,
    balance double precision not null,
    num_of_products smallint not null,
    has_cr_card smallint not null,
    is_active_member smallint not null,
    estimated_salary double precision not null,
    true_churn_label smallint,
    batch text not null,
    kafka_partition integer not null,
    kafka_offset bigint not null
);
-- Few indexes: each costs every commit. BRIN serves what arrives in order, time and batch.
create index churn_predictions_event_timestamp on churn_predictions using brin (event_timestamp);
create index churn_predictions_batch on churn_predictions
    using brin (batch) with (pages_per_range = 32, autosummarize = on);
create index churn_predictions_customer_id on churn_predictions (customer_id);
create index churn_predictions_high_risk on churn_predictions (risk_score) where risk_score >= 0.7;
comment on table churn_predictions is 'One row per scored event; batch, kafka_partition and kafka_offset say where it came from';
comment on column churn_predictions.risk_score is 'P(churn), 0 to 1';
comment on column churn_predictions.probability is 'P(churn), the same number as risk_score';
comment on column churn_predictions.prediction is '1 when risk_score reached the threshold of the model version, else 0';
comment on column churn_predictions.event_ref is 'The event id as sent, where it was not a UUID';
comment on column churn_predictions.age is 'Years as sent; null where unknown (the model scored the imputed median)';

create table high_risk_customers (
    event_id uuid primary key,
    batch text not null,
    customer_id bigint not null,
    risk_score real not null,
    geography text not null,
    gender text not null,
    age real,
    balance double precision not null,
    detected_at timestamptz not null,
    alert_sent boolean not null default false,
    alert_sent_at timestamptz
);
create index high_risk_customers_batch on high_risk_customers
    using brin (batch) with (pages_per_range = 32, autosummarize = on);
create index high_risk_customers_detected_at on high_risk_customers using brin (detected_at);
create index high_risk_customers_customer_id on high_risk_customers (customer_id);

-- migrate:down
drop table high_risk_customers, churn_predictions, model_versions;
