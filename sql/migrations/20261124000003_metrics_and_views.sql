-- migrate:up

create table churn_metrics_hourly (
    hour_timestamp timestamptz primary key,
    total_predictions bigint not null,
    churn_count bigint not null,
    churn_rate double precision,
    avg_risk_score double precision,
    high_risk_count bigint not null,
    avg_age double precision,
    avg_balance double precision,
    avg_tenure double precision,
    age_count bigint not null,
    version bigint not null,
    updated_at timestamptz not null default now()
);
comment on table churn_metrics_hourly is 'Figures per hour of the event, UTC; churn_rate is a percentage';
comment on column churn_metrics_hourly.age_count is 'Predictions whose age is known: the weight of avg_age';
comment on column churn_metrics_hourly.version is 'The version in dirty_hours that these figures include';

create table churn_metrics_daily (
    date date primary key,
    total_predictions bigint not null,
    churn_count bigint not null,
    churn_rate double precision,
    avg_risk_score double precision,
    high_risk_count bigint not null,
    avg_age double precision,
    avg_balance double precision,
    avg_tenure double precision,
    age_count bigint not null,
    version bigint not null,
    updated_at timestamptz not null default now()
);
comment on table churn_metrics_daily is 'Figures per day of the event, UTC: the sum of its hours';
comment on column churn_metrics_daily.version is 'Sum of the versions of the hours that these figures include';

-- The last 24 hours, as of the latest commit: straight from the sums that each commit keeps.
create view v_realtime_dashboard as
select
    hour_timestamp,
    sum(total_predictions)::bigint as total_predictions,
    sum(churn_count)::bigint as churn_count,
    100.0 * sum(churn_count) / nullif(sum(total_predictions), 0)::double precision as churn_rate,
    sum(risk_sum) / nullif(sum(total_predictions), 0) as avg_risk_score,
    sum(high_risk_count)::bigint as high_risk_count
from churn_batch_hours
where hour_timestamp > now() - interval '24 hours'
group by hour_timestamp
order by hour_timestamp desc;

-- The 100 customers of the last 7 days with the highest risk, each by the latest event that was high risk.
create view v_top_risk_customers as
select customer_id, risk_score, geography, gender, age, balance, event_timestamp, model_version
from (
    select distinct on (customer_id)
        customer_id, risk_score, geography, gender, age, balance, event_timestamp, model_version
    from churn_predictions
    where risk_score >= 0.7 and event_timestamp > now() - interval '7 days'
    order by customer_id, event_timestamp desc
) as latest
order by risk_score desc
limit 100;

create view v_geography_churn as
select
    geography,
    count(*) as total_predictions,
    sum(prediction)::bigint as churn_count,
    100.0 * sum(prediction) / count(*)::double precision as churn_rate,
    avg(risk_score) as avg_risk_score,
    count(*) filter (where risk_score >= 0.7) as high_risk_count,
    avg(age) as avg_age,
    avg(balance) as avg_balance
from churn_predictions
where event_timestamp > now() - interval '30 days'
group by geography
order by churn_rate desc;

create view v_churn_trends as
select
    date,
    total_predictions,
    churn_count,
    churn_rate,
    avg_risk_score,
    high_risk_count,
    churn_rate - lag(churn_rate) over by_day as churn_rate_change,
    avg(churn_rate) over (by_day rows between 6 preceding and current row) as churn_rate_7_days
from churn_metrics_daily
where date > current_date - 90
window by_day as (order by date)
order by date desc;

-- Confidence is the probability of the class that was predicted more likely. Rates by label where labels are known.
create view v_model_performance as
select
    (event_timestamp at time zone 'utc')::date as date,
    model_version,
    count(*) as total_predictions,
    avg(greatest(probability, 1 - probability)) as avg_confidence,
    count(*) filter (where greatest(probability, 1 - probability) >= 0.8) as high_confidence_count,
    count(*) filter (where greatest(probability, 1 - probability) < 0.6) as low_confidence_count,
    count(true_churn_label) as labelled_count,
    avg((prediction = true_churn_label)::integer)::double precision as accuracy,
    count(*) filter (where prediction = 1 and true_churn_label = 1)::double precision
        / nullif(count(*) filter (where prediction = 1 and true_churn_label is not null), 0) as precision,
    count(*) filter (where prediction = 1 and true_churn_label = 1)::double precision
        / nullif(count(*) filter (where true_churn_label = 1), 0) as recall
from churn_predictions
where event_timestamp > now() - interval '30 days'
group by 1, 2
order by 1 desc, 2 desc;

-- migrate:down
drop view v_model_performance, v_churn_trends, v_geography_churn, v_top_risk_customers, v_realtime_dashboard;
drop table churn_metrics_daily, churn_metrics_hourly;
