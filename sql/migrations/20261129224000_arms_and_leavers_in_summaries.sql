-- migrate:up
set local role churn_owner;

-- Sums of predictions by arm ------------------------------------------------------------------------------------------

-- The retention team sees sums of the contact arm only. The migration does not know the arms of earlier predictions, so it
-- counts everything as the control arm, which the team does not see. With a share of 1, the arms agree with that. At its
-- next start the worker finds another share, and moves customers and predictions to their arms.
alter table prediction_summary
    add column arm text not null default 'control' check (arm in ('contact', 'control')),
    drop constraint prediction_summary_pkey,
    add primary key (date, model_version, segments, arm);
alter table prediction_summary alter column arm drop default;
comment on table prediction_summary is
    'Sums of predictions by day of the event, model version, combination of segments and arm; they stay when predictions are archived';
comment on column prediction_summary.arm is 'Arm of the customers: contact or control';

update summary_state set control_share = 1;
update customer_summary set arm = 'control' where arm <> 'control';
create temp table every_arm on commit drop as select * from customer_segment_summary;
delete from customer_segment_summary;
insert into customer_segment_summary (segments, arm, customers, high_risk_customers, risk_sum, money_at_risk)
select segments, 'control', sum(customers), sum(high_risk_customers), sum(risk_sum), sum(money_at_risk)
from every_arm group by segments;

-- Customers who left --------------------------------------------------------------------------------------------------

alter table customer_summary add column left_at timestamptz;
comment on column customer_summary.left_at is
    'When the customer left, if an outcome says so that is not older than the latest event; else null';

alter table customer_segment_summary add column left_customers bigint not null default 0;
alter table customer_segment_summary alter column left_customers drop default;
comment on column customer_segment_summary.left_customers is 'Customers who left: their left_at is not null';
comment on column customer_segment_summary.high_risk_customers is
    'Customers whose latest event is high risk, without those who left';
comment on column customer_segment_summary.money_at_risk is
    'Sum of money_at_risk of the high-risk customers, without those who left';

create table changed_outcomes (
    event_id uuid,
    customer_id bigint /* customer id */
);
comment on table changed_outcomes is 'Events and customers with new outcomes, until the worker has counted these';
comment on column changed_outcomes.event_id is 'Event that the outcome is about; null if it names only the customer';
comment on column changed_outcomes.customer_id is 'Customer that the outcome is about; null if it names only the event';
insert into changed_outcomes (event_id, customer_id) select distinct event_id, customer_id from customer_outcomes;

create function record_changed_outcomes() returns trigger language plpgsql as $$
begin
    insert into changed_outcomes (event_id, customer_id) select distinct event_id, customer_id from new_outcomes;
    return null;
end
$$;
comment on function record_changed_outcomes is 'Tell the worker which events and customers have new outcomes';
create trigger record_changed_outcomes after insert on customer_outcomes
    referencing new table as new_outcomes for each statement execute function record_changed_outcomes();

reset role;

-- migrate:down

set local role churn_owner;
drop trigger record_changed_outcomes on customer_outcomes;
drop function record_changed_outcomes;
drop table changed_outcomes;
-- The sums by arm cannot be kept in a table whose key lacks the arm. The worker computes all summaries again.
delete from prediction_summary;
delete from customer_segment_summary;
update summary_state set definition = '';
alter table customer_segment_summary drop column left_customers;
alter table customer_summary drop column left_at;
alter table prediction_summary drop column arm;
alter table prediction_summary add primary key (date, model_version, segments);
reset role;
