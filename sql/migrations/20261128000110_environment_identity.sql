-- migrate:up

set local role churn_owner;

-- Which environment this database is. The id is random and made when it is first needed, so that a database that was
-- created from a template is another environment, and one that was restored from a backup is the same. What the
-- environment may write to in Kafka is recorded there, under this id, in the topic CLAIMS_TOPIC.
create table environment_identity (
    only_row boolean primary key default true check (only_row),
    id uuid not null default gen_random_uuid(),
    created timestamptz not null default now(),
    claims_topic_id text,
    predictions_topic text,
    stream_group text,
    check (num_nulls(claims_topic_id, predictions_topic, stream_group) in (0, 3))
);
comment on table environment_identity is 'Which environment this database is, and the Kafka that it belongs to';
comment on column environment_identity.claims_topic_id is
    'Id of the topic that holds the claims of all environments of that Kafka: it tells one Kafka from another';
comment on column environment_identity.predictions_topic is 'Topic that predictions of this database are published to';
comment on column environment_identity.stream_group is 'Consumer group that holds the published offsets';

reset role;

-- migrate:down

set local role churn_owner;
drop table environment_identity;
reset role;
