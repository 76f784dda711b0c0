-- migrate:up

set local role churn_owner;

-- Optuna's own tables, which it makes and changes by itself: the searches for hyperparameters. The comment is the mark
-- by which 'churn clean' knows what it may delete.
create schema optuna;
comment on schema optuna is 'Made by churn_platform';
grant usage, create on schema optuna to churn_writer;

reset role;

-- migrate:down

set local role churn_owner;
drop schema optuna cascade;
reset role;
