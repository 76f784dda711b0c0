-- migrate:up

set local role churn_owner;

-- Lanes split the partitions of the events topic among streaming runs: partition p belongs to lane p mod n. A topic
-- without a row has one lane. The sensor records the number that is wanted. Live runs see it in their next commit and
-- end their batches. Then a run of the new lanes closes what is left of the former ones, fences their producers in Kafka,
-- and puts the number in effect.
create table stream_layouts (
    topic text primary key,
    lanes integer not null check (lanes > 0),
    wanted integer not null check (wanted > 0),
    changed_at timestamptz not null default now()
);
comment on table stream_layouts is 'Into how many lanes the partitions of each events topic are split; without a row, one';
comment on column stream_layouts.topic is 'Name of the topic';
comment on column stream_layouts.lanes is 'Number of lanes in effect: only runs of so many lanes commit';
comment on column stream_layouts.wanted is
    'Number of lanes of the setting LANES; while it is another one, live runs end and the new ones wait for them';
comment on column stream_layouts.changed_at is 'When one of the numbers last changed';

-- Batches from before this migration are of the only lane.
alter table stream_batches
    add column lane integer not null default 0,
    add column lanes integer not null default 1,
    add constraint lane_of_lanes check (lane >= 0 and lane < lanes);
comment on column stream_batches.lane is 'Lane whose partitions the batch reads: those with partition mod lanes = lane';
comment on column stream_batches.lanes is 'Number of lanes when the batch was planned';

alter table stream_lag add column lanes_waiting bigint[];
comment on column stream_lag.lanes_waiting is
    'Part of waiting in the partitions of each lane, lane 0 first; null if Kafka did not answer';

reset role;

-- migrate:down

set local role churn_owner;
alter table stream_lag drop column lanes_waiting;
alter table stream_batches drop column lane, drop column lanes;
drop table stream_layouts;
reset role;
