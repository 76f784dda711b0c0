-- migrate:up

set local role churn_owner;

alter table high_risk_customers add column reasons jsonb;
comment on column high_risk_customers.reasons is 'The features that move this customer''s log-odds of churn most: [{"feature", "value", "contribution"}, ...], greatest first; null until explained, moments after the row appears';

-- What is still to be explained. Rows leave it at once, so it stays small, whatever the table holds.
create index high_risk_customers_unexplained on high_risk_customers (detected_at) where reasons is null;

reset role;

-- migrate:down

set local role churn_owner;
drop index high_risk_customers_unexplained;
alter table high_risk_customers drop column reasons;
reset role;
