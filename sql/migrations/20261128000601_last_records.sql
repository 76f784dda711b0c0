-- migrate:up
set local role churn_owner;

-- An offset alone does not say which record it was: a log that was cut and has grown again has other records there.
alter table stream_positions
    add column last_offset bigint, add column last_digest bytea, add column leader_epoch integer,
    add constraint last_record check ((last_offset is null) = (last_digest is null) and last_offset < next_offset);
comment on column stream_positions.last_offset is 'Offset of the last record read before next_offset; null where none is known';
comment on column stream_positions.last_digest is 'Digest of that record''s timestamp, key and value';
comment on column stream_positions.leader_epoch is 'Leader epoch that the broker wrote that record in';

alter table outcome_positions
    add column last_offset bigint, add column last_digest bytea, add column leader_epoch integer,
    add constraint last_record check ((last_offset is null) = (last_digest is null) and last_offset < next_offset);
comment on column outcome_positions.last_offset is 'Offset of the last record read before next_offset; null where none is known';
comment on column outcome_positions.last_digest is 'Digest of that record''s timestamp, key and value';
comment on column outcome_positions.leader_epoch is 'Leader epoch that the broker wrote that record in';

create table log_truncations (
    topic_id text not null,
    kafka_partition integer not null,
    next_offset bigint not null,
    reason text not null,
    accepted_at timestamptz not null default now(),
    primary key (topic_id, kafka_partition, accepted_at)
);
comment on table log_truncations is 'Logs that were cut below the position and have grown past it: accepted by an operator';

reset role;

-- migrate:down
set local role churn_owner;
drop table log_truncations;
alter table outcome_positions drop column last_offset, drop column last_digest, drop column leader_epoch;
alter table stream_positions drop column last_offset, drop column last_digest, drop column leader_epoch;
reset role;
