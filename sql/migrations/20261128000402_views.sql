-- migrate:up

set local role churn_owner;

-- The 100 customers of the last 7 days with the highest risk, each by the latest event. A customer whose latest score is
-- low is not among them, whatever was before. (An index gives the rows by risk, so few are compared with later ones.)
create or replace view v_top_risk_customers as
select customer_id, risk_score, geography, gender, age, balance, event_timestamp, model_version
from churn_predictions p
where risk_score >= 0.7 and event_timestamp > now() - interval '7 days'
  and not exists (
      select from churn_predictions later
      where later.customer_id = p.customer_id
        and (later.event_timestamp, later.event_id) > (p.event_timestamp, p.event_id)
  )
order by risk_score desc
limit 100;

-- The rate of seven days is that of all their predictions: a day of few weighs little. Days without any are days, too.
create or replace view v_churn_trends as
select
    date,
    total_predictions,
    churn_count,
    churn_rate,
    avg_risk_score,
    high_risk_count,
    churn_rate - lag(churn_rate) over (order by date) as churn_rate_change,
    (100.0 * sum(churn_count) over seven_days / nullif(sum(total_predictions) over seven_days, 0))::double precision
        as churn_rate_7_days
from churn_metrics_daily
where date > current_date - 90
window seven_days as (order by date range between interval '6 days' preceding and current row)
order by date desc;

comment on table high_risk_customers is 'Predictions whose risk score reached 0.7, one row per event: a customer with several such events has several rows';

reset role;

-- migrate:down

set local role churn_owner;

comment on table high_risk_customers is null;

create or replace view v_churn_trends as
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

create or replace view v_top_risk_customers as
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

reset role;
