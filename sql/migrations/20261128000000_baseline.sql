-- migrate:up

-- The schema of the platform, in this order:
--
--   1. roles and rights          5. predictions and dead letters
--   2. environment               6. metrics
--   3. models                    7. monitoring
--   4. the stream's ledger       8. retention
--                                9. alerts
--                               10. summaries
--                               11. views
--
-- What depends on the customers follows from the customer schema: 'churn db upgrade' puts columns where a line says
-- "customer columns of", gives customer_id its type, adds columns to tables that exist, and creates the views that read
-- them (database/customer_columns.py and database/customer_views.py). So no statement here names such a column.
--
-- A later migration begins with "set local role churn_owner;" and ends with "reset role;", so that what it creates
-- belongs to churn_owner. The grants follow from the default privileges below. (The reset is for dbmate, which records
-- the migration next, in the same transaction.)


-- 1. Roles and rights ------------------------------------------------------------------------------------------------

-- Dagster and MLflow keep their own tables in the same database.
create schema if not exists dagster;
create schema if not exists mlflow;

-- Equality of text and integers in GiST indexes, for the exclusion constraint on offset ranges.
create extension if not exists btree_gist;

-- Four roles without a login, shared by all databases of the server: churn_owner owns the tables, churn_writer is the
-- platform, churn_reader only reads, churn_retention reads and changes the cases of the retention team. Logins are
-- members of one of them and are created by whoever runs the server.
do $$
declare
    wanted text;
    usable boolean;
begin
    foreach wanted in array array['churn_owner', 'churn_writer', 'churn_reader', 'churn_retention'] loop
        begin
            if not exists (select from pg_roles where rolname = wanted) then
                execute format('create role %I nologin', wanted);
            end if;
        exception
            when duplicate_object or unique_violation then
                raise notice 'The role % was created by another migration at the same time', wanted;
            when insufficient_privilege then
                raise exception 'The role % does not exist, and % may not create it. Run as a superuser: create role churn_owner nologin; create role churn_writer nologin; create role churn_reader nologin; create role churn_retention nologin; grant churn_owner, churn_writer, churn_reader, churn_retention to %; and then this migration again.', wanted, quote_ident(current_user), quote_ident(current_user);
        end;
        for attempt in 1..2 loop
            -- A superuser can use every role. Since PostgreSQL 16 the creator of a role may only administer it.
            usable := pg_has_role(wanted, 'usage') and case
                when current_setting('server_version_num')::integer >= 160000 then pg_has_role(wanted, 'set')
                else true
            end;
            exit when usable;
            begin
                execute format('grant %I to current_user', wanted);
            exception
                when unique_violation then
                    raise notice 'The role % was granted by another migration at the same time', wanted;
                when insufficient_privilege then
                    raise exception '% is not a member of the role % and may not make itself one. Run as a superuser: grant churn_owner, churn_writer, churn_reader, churn_retention to %; and then this migration again.', quote_ident(current_user), wanted, quote_ident(current_user);
            end;
        end loop;
    end loop;
end
$$;

do $$
declare
    home text := current_schema();
    shared text;
    creator text;
    place record;
begin
    execute format('grant connect, create, temporary on database %I to churn_owner', current_database());
    execute format('grant connect, temporary on database %I to churn_writer', current_database());
    execute format('grant connect on database %I to churn_reader, churn_retention', current_database());

    execute format('revoke create on schema %I from public', home);
    execute format('grant usage, create on schema %I to churn_owner', home);
    execute format('grant usage on schema %I to churn_writer, churn_reader, churn_retention', home);
    foreach shared in array array['dagster', 'mlflow'] loop
        execute format('grant usage, create on schema %I to churn_writer', shared);
    end loop;

    -- A grant by somebody who does not own the schema is only a warning, which nobody would see.
    for place in
        select * from (values ('churn_owner', home), ('churn_writer', 'dagster'), ('churn_writer', 'mlflow'))
            as v (grantee, place)
        where not has_schema_privilege(grantee, v.place, 'create')
    loop
        raise exception 'The role % may not create tables in the schema %, and % may not grant it. Run as a superuser: grant usage, create on schema % to %; and then this migration again.', place.grantee, quote_ident(place.place), quote_ident(current_user), quote_ident(place.place), place.grantee;
    end loop;

    alter table schema_migrations owner to churn_owner;  -- so that every member of churn_owner can migrate
    grant select on schema_migrations to churn_writer, churn_reader;

    foreach creator in array array['churn_owner', current_user::text] loop
        execute format('alter default privileges for role %I in schema %I
            grant select, insert, update, delete on tables to churn_writer', creator, home);
        execute format('alter default privileges for role %I in schema %I
            grant usage, select, update on sequences to churn_writer', creator, home);
        execute format('alter default privileges for role %I in schema %I
            grant select on tables to churn_reader', creator, home);
    end loop;

    -- Dagster and MLflow change their own tables when they are upgraded, and only the owner of a table can do that. The
    -- owner of a sequence that belongs to a column changes with its table.
    for place in
        select n.nspname, c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace
        where n.nspname in ('dagster', 'mlflow') and c.relkind in ('r', 'p', 'v', 'm')
          and c.relowner <> 'churn_writer'::regrole and pg_has_role(c.relowner, 'usage')
    loop
        execute format('alter table %I.%I owner to churn_writer', place.nspname, place.relname);
    end loop;

    -- 'churn clean' deletes a schema only if it has this comment. A schema that already holds tables may have been
    -- created by somebody else, so it does not get one.
    for place in
        select nspname from pg_namespace n
        where nspname in ('dagster', 'mlflow') and pg_has_role(nspowner, 'usage')
          and not exists (select from pg_class c where c.relnamespace = n.oid)
    loop
        execute format('comment on schema %I is %L', place.nspname, 'Made by churn_platform');
    end loop;
end
$$;

set local role churn_owner;


-- 2. Environment -----------------------------------------------------------------------------------------------------

-- The id is random and created when it is first needed. So a database created from a template is another environment,
-- and one restored from a backup is the same. What the environment may write to in Kafka is recorded there, under this
-- id, in the claims topic.
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
comment on column environment_identity.only_row is 'Always true, so that the table has at most one row';
comment on column environment_identity.id is 'Random id of the environment';
comment on column environment_identity.created is 'When the id was created';
comment on column environment_identity.claims_topic_id is
    'Kafka''s id of the topic that holds the claims of all environments; it identifies the Kafka cluster';
comment on column environment_identity.predictions_topic is 'Topic that the predictions of this database are published to';
comment on column environment_identity.stream_group is 'Consumer group that holds the published offsets';

-- The sensor of each environment updates its row at every tick. Two environments on one database would compete for the
-- same stream with different models, topics and settings, so 'churn prepare' refuses to start beside another one.
create table environments (
    environment text primary key,
    seen timestamptz not null default now()
);
comment on table environments is 'Environments whose sensor works on this database';
comment on column environments.environment is 'Name of the environment: CHURN_ENVIRONMENT_NAME, else CHURN_ENVIRONMENT, else host:folder';
comment on column environments.seen is 'Latest tick of the environment''s sensor';

-- 'churn clean' deletes only topics that are listed here.
create table created_topics (
    topic_id text primary key,
    topic text not null,
    created_at timestamptz not null default now()
);
comment on table created_topics is
    'Topics that the platform created, by Kafka''s id: a topic that is deleted and created again has another id';
comment on column created_topics.topic_id is 'Kafka''s id of the topic';
comment on column created_topics.topic is 'Name of the topic';
comment on column created_topics.created_at is 'When the platform created the topic';


-- 3. Models ----------------------------------------------------------------------------------------------------------

-- This table decides which model is champion; MLflow's alias follows it.
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
comment on table model_versions is
    'Model bundles; the version that is promoted and not retired is the champion, which scores the stream';
comment on column model_versions.version is 'MLflow''s version of the registered model';
comment on column model_versions.uri is 'Folder of the bundle: an absolute path or an s3:// address';
comment on column model_versions.run_id is 'MLflow run that trained the version';
comment on column model_versions.metrics is
    'Metrics by name: oof_ names are out of fold on the training split, the others are on the test split';
comment on column model_versions.registered_at is 'When the version was registered';
comment on column model_versions.promoted_at is 'When the version last became champion; null if never';
comment on column model_versions.retired_at is
    'When the version last stopped being champion; null if it never was or is champion now';

-- model_versions holds only the latest promotion of each version.
create table model_promotions (
    promotion bigint generated always as identity primary key,
    version integer not null references model_versions (version),
    promoted_at timestamptz not null default now(),
    promoted_by text not null check (promoted_by in ('training', 'hand', 'alias', 'rollback')),
    reason text not null
);
comment on table model_promotions is 'Every promotion: which version became champion, when and why';
comment on column model_promotions.promotion is 'Number of the promotion, in order';
comment on column model_promotions.version is 'Version that became champion';
comment on column model_promotions.promoted_at is 'When it became champion';
comment on column model_promotions.promoted_by is
    'training: it beat the champion; hand: churn model promote; alias: moved in MLflow; rollback: churn model rollback';
comment on column model_promotions.reason is 'Why, in a sentence';

-- Not a column of model_versions, because every commit of the stream reads that table.
create table model_references (
    version integer primary key references model_versions,
    reference jsonb not null
);
comment on table model_references is
    'Histograms of every monitored feature and of the score in the training data of a model version';
comment on column model_references.version is 'Model version';
comment on column model_references.reference is
    'For each feature: the number of training rows in each bin, and the edges or categories of the bins';

-- The dashboard shows these without MLflow, and without the files of the bundle.
create table model_evaluations (
    version integer primary key references model_versions,
    report jsonb not null,
    evaluated_at timestamptz not null default now()
);
comment on table model_evaluations is 'Curves, slices and drivers of a model version, measured on the test split';
comment on column model_evaluations.version is 'Model version';
comment on column model_evaluations.report is
    'curves, confusion, lift, contributions, permutation, slices and baselines, as the metadata of model_evaluation has them';
comment on column model_evaluations.evaluated_at is 'When the version was last evaluated';

-- Optuna creates and changes its own tables, which hold the hyperparameter searches. 'churn clean' deletes the schema
-- because of its comment.
create schema optuna;
comment on schema optuna is 'Made by churn_platform';
grant usage, create on schema optuna to churn_writer;


-- 4. The stream's ledger ---------------------------------------------------------------------------------------------

-- The document is stored as text, which json keeps and jsonb does not: its digest is the fingerprint.
create table customer_schemas (
    fingerprint text primary key,
    data_set text not null,
    document json not null,
    first_used timestamptz not null default now()
);
comment on table customer_schemas is
    'Customer schemas that this database was used with, all of one data set; batches name them by fingerprint';
comment on column customer_schemas.fingerprint is 'Hexadecimal SHA-256 of the document';
comment on column customer_schemas.data_set is 'Name of the data set';
comment on column customer_schemas.document is 'The schema as JSON';
comment on column customer_schemas.first_used is 'When this database was first used with the schema';

-- Topics are identified by Kafka's id: a topic that is deleted and created again is another topic.
create table stream_topics (
    topic_id text primary key,
    topic text not null,
    first_seen timestamptz not null default now()
);
comment on table stream_topics is 'Topics that the stream has read events from';
comment on column stream_topics.topic_id is 'Kafka''s id of the topic; a topic that is created again has another id';
comment on column stream_topics.topic is 'Name of the topic';
comment on column stream_topics.first_seen is 'When the stream first read the topic';

-- Most updates of the ledger change a few rows again and again. Half-empty pages keep those updates in the same page.
create table stream_positions (
    topic_id text not null references stream_topics,
    kafka_partition integer not null,
    next_offset bigint not null check (next_offset >= 0),
    first_offset bigint not null,
    covered_to bigint not null,
    published_to bigint not null,
    last_offset bigint,
    last_digest bytea,
    leader_epoch integer,
    primary key (topic_id, kafka_partition),
    -- An offset alone does not identify a record: a log that was truncated and has grown again holds another one there.
    constraint last_record check ((last_offset is null) = (last_digest is null) and last_offset < next_offset)
) with (fillfactor = 50);
comment on table stream_positions is 'How far the stream has read each Kafka partition';
comment on column stream_positions.topic_id is 'Kafka''s id of the topic; a topic that is created again has another id';
comment on column stream_positions.kafka_partition is 'Partition of the topic';
comment on column stream_positions.next_offset is
    'Next offset to read; it also moves past transaction markers, which take offsets but are not events';
comment on column stream_positions.first_offset is 'Offset at which the stream began to read this partition';
comment on column stream_positions.covered_to is
    'End of the last range or skip; only transaction markers are between it and next_offset';
comment on column stream_positions.published_to is
    'Predictions up to this offset were published when a batch last closed; more may have been published since';
comment on column stream_positions.last_offset is 'Offset of the last record read before next_offset; null if unknown';
comment on column stream_positions.last_digest is 'Digest of the timestamp, key and value of that record';
comment on column stream_positions.leader_epoch is 'Leader epoch in which the broker wrote that record';

create table stream_batches (
    batch text primary key,
    planned timestamptz not null default now(),
    opened timestamptz,
    accepts_from timestamptz,
    accepts_until timestamptz,
    last_commit timestamptz,
    closed timestamptz,
    run_id text,
    model_version integer,
    events bigint not null default 0,
    predictions bigint not null default 0,
    dead_letters bigint not null default 0,
    duplicates bigint not null default 0,
    commits integer not null default 0,
    replays integer not null default 0,
    replayed_at timestamptz,
    reported boolean not null default false,
    archived timestamptz,
    archive text,
    schema_fingerprint text references customer_schemas,
    high_risk_threshold double precision check (high_risk_threshold >= 0),
    constraint conservation check (events = predictions + dead_letters + duplicates)
) with (fillfactor = 50);
create index stream_batches_unfinished on stream_batches (planned) where closed is null or not reported;
comment on table stream_batches is
    'Batches: planned (opened is null), open (closed is null) or closed; the key is also a partition of the Dagster asset churn_predictions';
comment on column stream_batches.batch is 'Key of the batch';
comment on column stream_batches.planned is 'When the batch was registered';
comment on column stream_batches.opened is 'When a run opened the batch; null before its first commit';
comment on column stream_batches.accepts_from is
    'Earliest event_timestamp that this batch accepts; an earlier event is a dead letter';
comment on column stream_batches.accepts_until is
    'Latest event_timestamp that this batch accepts; stored so that a replay accepts the same events';
comment on column stream_batches.last_commit is 'Time of the latest commit with events; null before the first';
comment on column stream_batches.closed is 'When the batch was closed; null until then';
comment on column stream_batches.run_id is 'Dagster run that last streamed into the batch';
comment on column stream_batches.model_version is 'Model version of the latest commit or replay';
comment on column stream_batches.events is 'Events read: predictions + dead_letters + duplicates';
comment on column stream_batches.predictions is 'Events that were scored';
comment on column stream_batches.dead_letters is 'Events that could not be scored';
comment on column stream_batches.duplicates is 'Events whose id was already scored';
comment on column stream_batches.commits is 'Commits with events';
comment on column stream_batches.replays is 'How often the batch was replayed';
comment on column stream_batches.replayed_at is 'When the batch was last replayed; null if never';
comment on column stream_batches.schema_fingerprint is
    'Customer schema that its events were decoded with, in customer_schemas; a replay decodes them with the same one';
comment on column stream_batches.high_risk_threshold is
    'Risk score from which its predictions are high risk; null before its first commit';
comment on column stream_batches.reported is 'Whether Dagster is known to have the materialization of this batch';
comment on column stream_batches.archived is
    'When its predictions were moved out of churn_predictions; an archived batch cannot be replayed';
comment on column stream_batches.archive is 'Parquet file that holds the archived predictions';

-- Each range begins where the range or skip before it ended, so together they cover a partition without gaps.
create table stream_ranges (
    batch text not null references stream_batches,
    topic_id text not null references stream_topics,
    kafka_partition integer not null,
    start_offset bigint not null,
    end_offset bigint not null check (end_offset > start_offset),
    sealed_offset bigint check (sealed_offset = end_offset),
    primary key (batch, topic_id, kafka_partition),
    constraint no_offset_in_two_batches exclude using gist (
        topic_id with =, kafka_partition with =, int8range(start_offset, sealed_offset) with &&
    )
) with (fillfactor = 50);
comment on table stream_ranges is 'Offsets that each batch has read: from start_offset up to, but not including, end_offset';
comment on column stream_ranges.batch is 'Batch that read the offsets';
comment on column stream_ranges.topic_id is 'Kafka''s id of the topic; a topic that is created again has another id';
comment on column stream_ranges.kafka_partition is 'Partition of the topic';
comment on column stream_ranges.start_offset is 'First offset of the range';
comment on column stream_ranges.end_offset is 'First offset after the range';
comment on column stream_ranges.sealed_offset is
    'The same offset once the batch is closed; null until then, when the range excludes every later offset from other batches';

-- Commits extend a range many times a second. The index of the constraint does not hold end_offset, so they add nothing
-- to it. Otherwise every commit would add an entry to the index, and search those of all commits before it.
create function seal_ranges() returns trigger language plpgsql as $$
begin
    update stream_ranges set sealed_offset = case when new.closed is not null then end_offset end where batch = new.batch;
    return null;
end
$$;
comment on function seal_ranges is 'Fix the ends of the ranges of a batch that was closed';
create trigger seal_ranges after update of closed on stream_batches for each row execute function seal_ranges();

create function require_advanced(positions bigint, of_positions bigint, ranges bigint, of_ranges bigint, batches bigint)
returns void language plpgsql as $$
begin
    if (positions, ranges, batches) is distinct from (of_positions, of_ranges, 1::bigint) then
        raise exception 'the ledger moved % of % positions, % of % ranges and % of 1 open batch',
            positions, of_positions, ranges, of_ranges, batches using errcode = 'CH001';
    end if;
end
$$;
comment on function require_advanced is
    'Fail unless a commit has moved all its positions and ranges, and its batch is open; each number is one of changed rows';
revoke all on function require_advanced from public;
grant execute on function require_advanced to churn_writer;

create table stream_skips (
    topic_id text not null references stream_topics,
    kafka_partition integer not null,
    start_offset bigint not null,
    end_offset bigint not null check (end_offset > start_offset),
    reason text not null,
    skipped_at timestamptz not null default now(),
    primary key (topic_id, kafka_partition, start_offset)
);
comment on table stream_skips is 'Offsets of the events topic that an operator skipped; the stream never reads them';
comment on column stream_skips.topic_id is 'Kafka''s id of the topic; a topic that is created again has another id';
comment on column stream_skips.kafka_partition is 'Partition of the topic';
comment on column stream_skips.start_offset is 'First skipped offset';
comment on column stream_skips.end_offset is 'First offset after the skip';
comment on column stream_skips.reason is 'The operator''s reason';
comment on column stream_skips.skipped_at is 'When the operator skipped the offsets';

create table log_truncations (
    topic_id text not null,
    kafka_partition integer not null,
    next_offset bigint not null,
    reason text not null,
    accepted_at timestamptz not null default now(),
    primary key (topic_id, kafka_partition, accepted_at)
);
comment on table log_truncations is
    'Partitions whose log was truncated below the position and has grown past it again; an operator accepted this';
comment on column log_truncations.topic_id is 'Kafka''s id of the topic; a topic that is created again has another id';
comment on column log_truncations.kafka_partition is 'Partition of the topic';
comment on column log_truncations.next_offset is 'Position below which the log was truncated';
comment on column log_truncations.reason is 'The operator''s reason';
comment on column log_truncations.accepted_at is 'When the operator accepted the truncation';

-- By name: a stream stays paused when its topic is deleted and created again.
create table stream_pauses (
    topic text primary key,
    since timestamptz not null default now()
);
comment on table stream_pauses is 'Topics whose stream an operator has paused';
comment on column stream_pauses.topic is 'Name of the topic';
comment on column stream_pauses.since is 'When the stream was paused';


-- 5. Predictions and dead letters ------------------------------------------------------------------------------------

create table churn_predictions (
    event_id uuid primary key,
    event_ref text,
    customer_id bigint /* customer id */ not null,
    prediction smallint not null,
    risk_score real not null,
    probability real generated always as (risk_score) stored,
    predicted_at timestamptz not null,
    event_timestamp timestamptz not null,
    model_version integer not null,
    -- customer columns of churn_predictions
    true_churn_label smallint,
    batch text not null,
    kafka_partition integer not null,
    kafka_offset bigint not null
);
-- Every index slows down every commit, so there are few. Rows arrive in the order of time and batch, which BRIN uses.
create index churn_predictions_event_timestamp on churn_predictions using brin (event_timestamp);
create index churn_predictions_batch on churn_predictions
    using brin (batch) with (pages_per_range = 32, autosummarize = on);
create index churn_predictions_customer_id on churn_predictions (customer_id);
-- Few rows have a label where the outcome is known later. This index limits the search to blocks that hold some.
create index churn_predictions_labelled on churn_predictions using brin (event_timestamp)
    with (pages_per_range = 32, autosummarize = on) where true_churn_label is not null;
comment on table churn_predictions is
    'One row per scored event; batch, kafka_partition and kafka_offset are where the event was read';
comment on column churn_predictions.event_id is 'Id of the event; a UUIDv5 if it was sent without an id or with one that is not a UUID';
comment on column churn_predictions.event_ref is 'The event id as sent, if it was not a UUID';
comment on column churn_predictions.customer_id is 'Id of the customer';
comment on column churn_predictions.prediction is '1 if risk_score reached the threshold of the model version, else 0';
comment on column churn_predictions.risk_score is 'Probability of churn, 0 to 1';
comment on column churn_predictions.probability is 'The same number as risk_score';
comment on column churn_predictions.predicted_at is 'When the event was scored';
comment on column churn_predictions.event_timestamp is 'Time of the event; Kafka''s timestamp if the event has none';
comment on column churn_predictions.model_version is 'Model version that scored the event';
comment on column churn_predictions.true_churn_label is
    '1 if the customer left, 0 if the customer stayed; null if the event does not have it';
comment on column churn_predictions.batch is 'Batch that read the event';
comment on column churn_predictions.kafka_partition is 'Partition of the events topic';
comment on column churn_predictions.kafka_offset is 'Offset in the partition';

-- When rows are deleted, BRIN indexes keep the old batches and times of their blocks. New rows are written to the same
-- blocks, so the ranges would grow until every query scans the whole table. Only the owner of an index may summarize a
-- range again, so the archive, which runs as churn_writer, calls this function.
create function resummarize_predictions(numbers bigint[]) returns void
language sql security definer set search_path = pg_catalog, public, pg_temp as $$
    select brin_desummarize_range(i.name, min(block)), brin_summarize_range(i.name, min(block))
    from unnest(numbers) as n (number), lateral (select number * 32 as block) as b,
        (values ('churn_predictions_batch'::regclass, 32), ('churn_predictions_event_timestamp', 128)) as i (name, size)
    group by i.name, block / i.size
$$;
comment on function resummarize_predictions is
    'Summarize block ranges of churn_predictions again after rows were deleted; numbers are block numbers divided by 32';
revoke all on function resummarize_predictions from public;
grant execute on function resummarize_predictions to churn_writer;

-- What the summaries have counted of a batch before its replay. The worker subtracts these rows, adds the batch's present
-- ones, and deletes them. Rows that it had not followed before the replay are among them; it knows by its position.
create table replaced_predictions (
    replay integer not null,
    event_id uuid not null,
    event_ref text,
    customer_id bigint /* customer id */ not null,
    prediction smallint not null,
    risk_score real not null,
    predicted_at timestamptz not null,
    event_timestamp timestamptz not null,
    model_version integer not null,
    -- customer columns of replaced_predictions
    true_churn_label smallint,
    batch text not null,
    kafka_partition integer not null,
    kafka_offset bigint not null
);
create index replaced_predictions_batch on replaced_predictions (batch, replay);
comment on table replaced_predictions is
    'Predictions as they were before the replay of their batch, until the worker has corrected the summaries';
comment on column replaced_predictions.replay is 'How often the batch had been replayed when it had these predictions';
comment on column replaced_predictions.event_id is 'Event in churn_predictions';
comment on column replaced_predictions.event_ref is 'The event id as sent, if it was not a UUID';
comment on column replaced_predictions.customer_id is 'Id of the customer';
comment on column replaced_predictions.prediction is 'As in churn_predictions before the replay';
comment on column replaced_predictions.risk_score is 'Probability of churn before the replay, 0 to 1';
comment on column replaced_predictions.predicted_at is 'When the event was scored before the replay';
comment on column replaced_predictions.event_timestamp is 'Time of the event';
comment on column replaced_predictions.model_version is 'Model version that scored the event before the replay';
comment on column replaced_predictions.true_churn_label is '1 if the customer left, 0 if the customer stayed; null if unknown';
comment on column replaced_predictions.batch is 'Batch that read the event';
comment on column replaced_predictions.kafka_partition is 'Partition of the events topic';
comment on column replaced_predictions.kafka_offset is 'Offset in the partition';

create table high_risk_customers (
    event_id uuid primary key,
    batch text not null,
    customer_id bigint /* customer id */ not null,
    risk_score real not null,
    -- customer columns of high_risk_customers
    detected_at timestamptz not null,
    alert_sent boolean not null default false,
    alert_sent_at timestamptz,
    reasons jsonb
);
create index high_risk_customers_batch on high_risk_customers
    using brin (batch) with (pages_per_range = 32, autosummarize = on);
create index high_risk_customers_detected_at on high_risk_customers using brin (detected_at);
create index high_risk_customers_customer_id on high_risk_customers (customer_id);
create index high_risk_customers_risk_score on high_risk_customers (risk_score);
-- The rows that are not explained yet. A row leaves this index within moments, so it stays small.
create index high_risk_customers_unexplained on high_risk_customers (detected_at) where reasons is null;
comment on table high_risk_customers is
    'Predictions whose risk score reached the threshold of their batch, one row per event: a customer with several such events has several rows';
comment on column high_risk_customers.event_id is 'Event in churn_predictions';
comment on column high_risk_customers.batch is 'Batch that read the event';
comment on column high_risk_customers.customer_id is 'Id of the customer';
comment on column high_risk_customers.risk_score is
    'Probability of churn, 0 to 1; a row whose alert was sent stays even if a replay scores it below the threshold';
comment on column high_risk_customers.detected_at is 'When the event was scored';
comment on column high_risk_customers.alert_sent is
    'Whether a target of ALERT_TARGETS was told about the customer because of this event; a replay does not change it';
comment on column high_risk_customers.alert_sent_at is 'When it was told; null until then';
comment on column high_risk_customers.reasons is
    'The features with the largest contributions to this customer''s log-odds of churn: [{"feature", "value", "contribution"}, ...], largest first; null until explained, moments after the row appears';

-- Replaced by each scoring of the file, in one transaction.
create table customer_file_scores (
    customer_id bigint /* customer id */ primary key,
    event_id uuid not null default gen_random_uuid() unique,
    risk_score real not null,
    model_version integer not null,
    scored_at timestamptz not null,
    -- customer columns of customer_file_scores
    reasons jsonb not null
);
comment on table customer_file_scores is
    'Customers of the latest scored file whose risk score reached the high-risk threshold and who have not left';
comment on column customer_file_scores.customer_id is 'Id of the customer';
comment on column customer_file_scores.event_id is
    'Identifies this score of the customer, as the id of an event does; a case that it opens has it';
comment on column customer_file_scores.risk_score is 'Probability of churn, 0 to 1';
comment on column customer_file_scores.model_version is 'Model version that scored the customer';
comment on column customer_file_scores.scored_at is 'When the scoring of the file began';
comment on column customer_file_scores.reasons is
    'The features with the largest contributions to this customer''s log-odds of churn: [{"feature", "value", "contribution"}, ...], largest first';

create table dead_letter_events (
    topic_id text not null references stream_topics,
    kafka_partition integer not null,
    kafka_offset bigint not null,
    batch text not null references stream_batches,
    topic text not null,
    reason text not null,
    payload bytea,
    kafka_timestamp timestamptz,
    received_at timestamptz not null,
    retry_event_id uuid,
    retried_at timestamptz,
    resolved_at timestamptz,
    primary key (topic_id, kafka_partition, kafka_offset)
);
create index dead_letter_events_batch on dead_letter_events (batch);
create index dead_letter_events_received_at on dead_letter_events (received_at);
create index dead_letter_events_unresolved on dead_letter_events (retry_event_id)
    where retry_event_id is not null and resolved_at is null;
comment on table dead_letter_events is 'Messages of the events topic that are not valid events, with the reason';
comment on column dead_letter_events.topic_id is
    'Kafka''s id of the topic; a topic that is created again has another id';
comment on column dead_letter_events.kafka_partition is 'Partition of the topic';
comment on column dead_letter_events.kafka_offset is 'Offset in the partition';
comment on column dead_letter_events.batch is 'Batch that read the message';
comment on column dead_letter_events.topic is 'Name of the topic';
comment on column dead_letter_events.reason is 'The problem: what was expected and what was found';
comment on column dead_letter_events.payload is 'The value of the message as it was read; null for a tombstone';
comment on column dead_letter_events.kafka_timestamp is 'Kafka''s timestamp of the message; null if it has none';
comment on column dead_letter_events.received_at is 'When the message was read';
comment on column dead_letter_events.retry_event_id is 'Id of the corrected event that was sent for this dead letter';
comment on column dead_letter_events.retried_at is 'When the corrected event was sent; null if none was sent';
comment on column dead_letter_events.resolved_at is 'When the corrected event was scored';

create function dead_letter_kind(reason text) returns text
language sql immutable strict parallel safe
begin atomic
    select regexp_replace(regexp_replace(regexp_replace(regexp_replace(regexp_replace(regexp_replace(regexp_replace(
        reason,
        '(, got|; found:) .*$', '\1 …'),
        '(near|follows:|after|bytes:|\d:) ''.*''', '\1 ''…''', 'g'),
        '[-+]?\d{4,}-\d\d-\d\dT[0-9:.]+(Z|[+-][0-9:]+)?', '…', 'g'),
        '\m(batch) [^ ,]+,', '\1 …,', 'g'),
        '\m(partition|offset|byte|after) \d+', '\1 …', 'g'),
        '-?\d+ (bytes|ms)\M', '… \1', 'g'),
        '(is 0x[0-9a-f]+ \([^)]*\)|begins with( [0-9a-f]{2})+\))', '…', 'g');
end;
comment on function dead_letter_kind is
    'The reason of a dead letter without the values, times and places that differ from one dead letter to the next';
grant execute on function dead_letter_kind to churn_reader;


-- 6. Metrics ---------------------------------------------------------------------------------------------------------

create table churn_batch_hours (
    batch text not null,
    hour_timestamp timestamptz not null,
    total_predictions bigint not null,
    churn_count bigint not null,
    risk_sum double precision not null,
    high_risk_count bigint not null,
    -- customer columns of churn_batch_hours
    primary key (hour_timestamp, batch)
) with (fillfactor = 50);
create index churn_batch_hours_batch on churn_batch_hours (batch);
comment on table churn_batch_hours is
    'Sums per batch and hour of the event, UTC; the metrics of an hour are computed from these few rows, not from its predictions';
comment on column churn_batch_hours.batch is 'Key of the batch';
comment on column churn_batch_hours.hour_timestamp is 'Start of the hour, UTC';
comment on column churn_batch_hours.total_predictions is 'Number of predictions';
comment on column churn_batch_hours.churn_count is 'Predictions of churn';
comment on column churn_batch_hours.risk_sum is 'Sum of the risk scores';
comment on column churn_batch_hours.high_risk_count is 'High-risk predictions: a risk score of at least HIGH_RISK_THRESHOLD when the batch was opened';

create table dirty_hours (
    hour_timestamp timestamptz primary key,
    version bigint not null
) with (fillfactor = 50);
comment on table dirty_hours is
    'Number of changes to the sums of each hour; an hour is dirty while churn_metrics_hourly has a lower version, or no row';
comment on column dirty_hours.hour_timestamp is 'Start of the hour, UTC';
comment on column dirty_hours.version is 'Number of changes to the sums of the hour';

create table churn_metrics_hourly (
    hour_timestamp timestamptz primary key,
    total_predictions bigint not null,
    churn_count bigint not null,
    churn_rate double precision,
    avg_risk_score double precision,
    high_risk_count bigint not null,
    -- customer columns of churn_metrics_hourly
    version bigint not null,
    updated_at timestamptz not null default now()
);
comment on table churn_metrics_hourly is 'Metrics per hour of the event, UTC; churn_rate is a percentage';
comment on column churn_metrics_hourly.hour_timestamp is 'Start of the hour, UTC';
comment on column churn_metrics_hourly.total_predictions is 'Number of predictions';
comment on column churn_metrics_hourly.churn_count is 'Predictions of churn';
comment on column churn_metrics_hourly.churn_rate is
    'churn_count as a percentage of total_predictions, 0 to 100; null without predictions';
comment on column churn_metrics_hourly.avg_risk_score is 'Mean risk score, 0 to 1; null without predictions';
comment on column churn_metrics_hourly.high_risk_count is 'High-risk predictions: a risk score of at least HIGH_RISK_THRESHOLD when the batch was opened';
comment on column churn_metrics_hourly.version is 'Version of the hour in dirty_hours that these metrics include';
comment on column churn_metrics_hourly.updated_at is 'When the row was computed';

create table churn_metrics_daily (
    date date primary key,
    total_predictions bigint not null,
    churn_count bigint not null,
    churn_rate double precision,
    avg_risk_score double precision,
    high_risk_count bigint not null,
    -- customer columns of churn_metrics_daily
    version bigint not null,
    updated_at timestamptz not null default now()
);
comment on table churn_metrics_daily is 'Metrics per day of the event, UTC, computed from those of its hours';
comment on column churn_metrics_daily.date is 'Day of the events, UTC';
comment on column churn_metrics_daily.total_predictions is 'Number of predictions';
comment on column churn_metrics_daily.churn_count is 'Predictions of churn';
comment on column churn_metrics_daily.churn_rate is
    'churn_count as a percentage of total_predictions, 0 to 100; null without predictions';
comment on column churn_metrics_daily.avg_risk_score is 'Mean risk score, 0 to 1; null without predictions';
comment on column churn_metrics_daily.high_risk_count is 'High-risk predictions: a risk score of at least HIGH_RISK_THRESHOLD when the batch was opened';
comment on column churn_metrics_daily.version is 'Sum of the versions of the hours that these metrics include';
comment on column churn_metrics_daily.updated_at is 'When the row was computed';


-- 7. Monitoring ------------------------------------------------------------------------------------------------------

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
comment on table drift_hourly is 'Drift of each feature from the training data, per hour of the event, UTC';
comment on column drift_hourly.hour_timestamp is 'Start of the hour, UTC';
comment on column drift_hourly.model_version is
    'Model version that made the predictions and whose training data they are compared with';
comment on column drift_hourly.feature is 'Feature of the customer, or risk_score';
comment on column drift_hourly.sampled is 'Predictions in the sample';
comment on column drift_hourly.weight is 'How many predictions each sampled prediction represents; 1 without sampling';
comment on column drift_hourly.counts is
    'Sampled predictions in each bin of model_references; the last bin holds missing values';
comment on column drift_hourly.outside is 'Sampled predictions with a value that the training data does not contain';
comment on column drift_hourly.psi is 'Population stability index, 0 or more; null without a reference';
comment on column drift_hourly.p_value is
    'p-value of a chi-squared test that both distributions are equal, 0 to 1; null without a reference';
comment on column drift_hourly.verdict is 'stable, shifted, far, too few (predictions) or no reference';
comment on column drift_hourly.missing_rate is 'Share of missing values in the sample, 0 to 1';
comment on column drift_hourly.out_of_range_rate is 'outside as a share of sampled, 0 to 1';
comment on column drift_hourly.version is 'Version of the hour in dirty_hours that this row includes';
comment on column drift_hourly.updated_at is 'When the row was computed';

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
comment on table drift_daily is 'Drift of each feature from the training data, per day, UTC, computed from its hours';
comment on column drift_daily.date is 'Day of the events, UTC';
comment on column drift_daily.model_version is
    'Model version that made the predictions and whose training data they are compared with';
comment on column drift_daily.feature is 'Feature of the customer, or risk_score';
comment on column drift_daily.sampled is 'Predictions in the sample';
comment on column drift_daily.weight is 'How many predictions each sampled prediction represents; 1 without sampling';
comment on column drift_daily.counts is
    'Sampled predictions in each bin of model_references; the last bin holds missing values';
comment on column drift_daily.outside is 'Sampled predictions with a value that the training data does not contain';
comment on column drift_daily.psi is 'Population stability index, 0 or more; null without a reference';
comment on column drift_daily.p_value is
    'p-value of a chi-squared test that both distributions are equal, 0 to 1; null without a reference';
comment on column drift_daily.verdict is 'stable, shifted, far, too few (predictions) or no reference';
comment on column drift_daily.missing_rate is 'Share of missing values in the sample, 0 to 1';
comment on column drift_daily.out_of_range_rate is 'outside as a share of sampled, 0 to 1';
comment on column drift_daily.version is 'Sum of the versions of the hours that this row includes';
comment on column drift_daily.updated_at is 'When the row was computed';

create table outcome_positions (
    topic_id text not null,
    kafka_partition integer not null,
    topic text not null,
    next_offset bigint not null check (next_offset >= 0),
    last_offset bigint,
    last_digest bytea,
    leader_epoch integer,
    primary key (topic_id, kafka_partition),
    constraint last_record check ((last_offset is null) = (last_digest is null) and last_offset < next_offset)
);
comment on table outcome_positions is 'How far each partition of the outcomes topic has been read';
comment on column outcome_positions.topic_id is
    'Kafka''s id of the topic; a topic that is created again has another id';
comment on column outcome_positions.kafka_partition is 'Partition of the topic';
comment on column outcome_positions.topic is 'Name of the topic';
comment on column outcome_positions.next_offset is 'Next offset to read';
comment on column outcome_positions.last_offset is 'Offset of the last record read before next_offset; null if unknown';
comment on column outcome_positions.last_digest is 'Digest of the timestamp, key and value of that record';
comment on column outcome_positions.leader_epoch is 'Leader epoch in which the broker wrote that record';

-- Recorded before the offsets are read, so that an interrupted reading continues with the same bounds.
create table outcome_reads (
    topic_id text not null,
    kafka_partition integer not null,
    start_offset bigint not null,
    end_offset bigint not null check (end_offset > start_offset),
    accepts_from timestamptz not null,
    accepts_until timestamptz not null,
    opened timestamptz not null default now(),
    primary key (topic_id, kafka_partition, start_offset)
);
create index outcome_reads_opened on outcome_reads (opened);
comment on table outcome_reads is
    'Offsets of each reading of the outcomes topic, and the outcome times that the reading accepts';
comment on column outcome_reads.topic_id is 'Kafka''s id of the topic; a topic that is created again has another id';
comment on column outcome_reads.kafka_partition is 'Partition of the topic';
comment on column outcome_reads.start_offset is 'First offset of the reading';
comment on column outcome_reads.end_offset is 'First offset after the reading';
comment on column outcome_reads.accepts_from is 'Earliest time of an outcome; an earlier outcome is in refused_outcomes';
comment on column outcome_reads.accepts_until is 'Latest time of an outcome; a later outcome is in refused_outcomes';
comment on column outcome_reads.opened is 'When the reading was recorded';

create table outcome_skips (
    topic_id text not null,
    kafka_partition integer not null,
    start_offset bigint not null,
    end_offset bigint not null check (end_offset > start_offset),
    reason text not null,
    skipped_at timestamptz not null default now(),
    primary key (topic_id, kafka_partition, start_offset)
);
comment on table outcome_skips is 'Offsets of the outcomes topic that an operator skipped; they are never read';
comment on column outcome_skips.topic_id is 'Kafka''s id of the topic; a topic that is created again has another id';
comment on column outcome_skips.kafka_partition is 'Partition of the topic';
comment on column outcome_skips.start_offset is 'First skipped offset';
comment on column outcome_skips.end_offset is 'First offset after the skip';
comment on column outcome_skips.reason is 'The operator''s reason';
comment on column outcome_skips.skipped_at is 'When the operator skipped the offsets';

-- A message is identified by its position, so reading it again does not count it twice.
create table customer_outcomes (
    topic_id text not null,
    kafka_partition integer not null,
    kafka_offset bigint not null,
    event_id uuid,
    customer_id bigint /* customer id */,
    churned smallint not null check (churned in (0, 1)),
    outcome_timestamp timestamptz not null,
    received_at timestamptz not null default now(),
    primary key (topic_id, kafka_partition, kafka_offset),
    constraint of_an_event_or_a_customer check (event_id is not null or customer_id is not null)
);
create index customer_outcomes_event_id on customer_outcomes (event_id) where event_id is not null;
create index customer_outcomes_customer_id on customer_outcomes (customer_id) where event_id is null;
create index customer_outcomes_received_at on customer_outcomes (received_at);
comment on table customer_outcomes is
    'Whether customers left or stayed, as the outcomes topic reported later: for one event, or for a customer';
comment on column customer_outcomes.topic_id is
    'Kafka''s id of the topic; a topic that is created again has another id';
comment on column customer_outcomes.kafka_partition is 'Partition of the topic';
comment on column customer_outcomes.kafka_offset is 'Offset in the partition';
comment on column customer_outcomes.event_id is 'Event that the outcome is about; null if it names only the customer';
comment on column customer_outcomes.customer_id is
    'Customer that the outcome is about; null if it names only the event';
comment on column customer_outcomes.churned is '1 if the customer left, 0 if the customer stayed';
comment on column customer_outcomes.outcome_timestamp is
    'When the outcome was known; a customer''s outcome applies to predictions before it';
comment on column customer_outcomes.received_at is 'When the message was read';

create table refused_outcomes (
    topic_id text not null,
    kafka_partition integer not null,
    kafka_offset bigint not null,
    reason text not null,
    payload bytea,
    received_at timestamptz not null default now(),
    primary key (topic_id, kafka_partition, kafka_offset)
);
create index refused_outcomes_received_at on refused_outcomes (received_at);
comment on table refused_outcomes is 'Messages of the outcomes topic that are not valid outcomes, with the reason';
comment on column refused_outcomes.topic_id is 'Kafka''s id of the topic; a topic that is created again has another id';
comment on column refused_outcomes.kafka_partition is 'Partition of the topic';
comment on column refused_outcomes.kafka_offset is 'Offset in the partition';
comment on column refused_outcomes.reason is 'The problem: what was expected and what was found';
comment on column refused_outcomes.payload is 'The value of the message as it was read; null for a tombstone';
comment on column refused_outcomes.received_at is 'When the message was read';

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
comment on table live_performance is
    'Performance per day and model version, over the predictions of the last window_days whose outcome is known';
comment on column live_performance.date is 'Last day of the window, UTC';
comment on column live_performance.model_version is 'Model version that made the predictions';
comment on column live_performance.window_days is 'Length of the window, in days';
comment on column live_performance.labelled is 'Predictions in the window whose outcome is known';
comment on column live_performance.churned is 'How many of their customers left';
comment on column live_performance.roc_auc is 'ROC AUC, 0 to 1; null if all left or all stayed';
comment on column live_performance.roc_auc_error is 'Standard error of roc_auc (Hanley and McNeil)';
comment on column live_performance.expected_roc_auc is 'Out-of-fold ROC AUC of the model version in training';
comment on column live_performance."precision" is
    'Share of the customers predicted to leave who left, 0 to 1; null if none was predicted to leave';
comment on column live_performance.recall is
    'Share of the customers who left who were predicted to leave, 0 to 1; null if none left';
comment on column live_performance.brier is 'Mean squared error of the score (Brier score), 0 to 1; lower is better';
comment on column live_performance.ece is 'Expected calibration error over ten bins, 0 to 1; lower is better';
comment on column live_performance.mean_score is 'Mean risk score, 0 to 1; compare it with churn_rate';
comment on column live_performance.churn_rate is 'Share of customers who left, 0 to 1';
comment on column live_performance.updated_at is 'When the row was computed';


-- 8. Retention -------------------------------------------------------------------------------------------------------

-- The resident worker has positions of its own, so commits of the stream do nothing for it.
create table worker_positions (
    follower text not null,
    topic_id text not null references stream_topics,
    kafka_partition integer not null,
    next_offset bigint not null,
    primary key (follower, topic_id, kafka_partition)
) with (fillfactor = 50);
comment on table worker_positions is 'How far each duty of the resident worker has followed the stream''s commits';
comment on column worker_positions.follower is 'Name of the duty';
comment on column worker_positions.topic_id is 'Kafka''s id of the events topic';
comment on column worker_positions.kafka_partition is 'Partition of the topic';
comment on column worker_positions.next_offset is 'The duty has read the rows of all offsets before this one';

create table stream_lag (
    only_row boolean primary key default true check (only_row),
    waiting bigint,
    problem text not null default '',
    read_at timestamptz not null default now()
) with (fillfactor = 50);
comment on table stream_lag is 'How far the stream was behind Kafka when the resident worker looked last, which it does every 10 s';
comment on column stream_lag.only_row is 'There is at most one row';
comment on column stream_lag.waiting is 'Offsets of the events topic that were not read; null if Kafka did not answer';
comment on column stream_lag.problem is 'Why Kafka did not answer; empty if it did';
comment on column stream_lag.read_at is 'When the worker looked';

-- Dagster shows them as observations of its assets. The sensor that reports them only reads these rows.
create table worker_observations (
    asset text primary key,
    number bigint not null default 1,
    observed_at timestamptz not null default now(),
    metadata jsonb not null
) with (fillfactor = 50);
comment on table worker_observations is 'What the resident worker last found about each asset that it keeps';
comment on column worker_observations.asset is 'Name of the asset in Dagster';
comment on column worker_observations.number is 'Grows with each observation';
comment on column worker_observations.observed_at is 'When it was observed';
comment on column worker_observations.metadata is 'Counts and names, shown in Dagster';

-- Whoever knows the key can tell which customers are in the control group.
create table retention_keys (
    only_row boolean primary key default true check (only_row),
    key bytea not null check (length(key) >= 32),
    created_at timestamptz not null default now()
);
revoke all on retention_keys from churn_reader;
comment on table retention_keys is 'The secret that decides which customers are in the control group';
comment on column retention_keys.only_row is 'Always true, so that the table has at most one row';
comment on column retention_keys.key is 'Random key of the hash of customer ids; created when the first case is opened';
comment on column retention_keys.created_at is 'When the key was created';

create table do_not_contact (
    customer_id bigint /* customer id */ primary key,
    reason text not null,
    added_by text not null,
    added_at timestamptz not null default now()
);
comment on table do_not_contact is 'Customers who do not want to be called; they get no case';
comment on column do_not_contact.customer_id is 'Id of the customer';
comment on column do_not_contact.reason is 'Why';
comment on column do_not_contact.added_by is 'Who added the customer';
comment on column do_not_contact.added_at is 'When the customer was added';

create function case_status_allowed(before text, after text) returns boolean
language sql immutable strict parallel safe
begin atomic
    select case before
        when 'open' then after in ('assigned', 'contacted', 'kept', 'lost', 'dismissed', 'expired')
        when 'assigned' then after in ('open', 'contacted', 'kept', 'lost', 'dismissed', 'expired')
        when 'contacted' then after in ('kept', 'lost', 'expired')
        else false
    end;
end;
comment on function case_status_allowed is 'Whether the status of a case may change in this way';

create table retention_cases (
    case_id bigint generated always as identity primary key,
    customer_id bigint /* customer id */ not null,
    arm text not null check (arm in ('contact', 'control')),
    control_share double precision not null,
    status text not null default 'open'
        check (status in ('open', 'assigned', 'contacted', 'kept', 'lost', 'dismissed', 'expired')),
    owner text check (owner <> ''),
    notes text,
    opened_at timestamptz not null default now(),
    contacted_at timestamptz,
    closed_at timestamptz,
    reopened_at timestamptz,
    reason text,
    event_id uuid not null,
    event_timestamp timestamptz not null,
    kafka_offset bigint not null,
    model_version integer not null,
    risk_score real not null,
    highest_risk_score real not null,
    reasons text[],
    explained_event_id uuid,
    money_at_risk double precision,
    priority double precision not null,
    segments jsonb not null,
    link text,
    list_day date,
    list_rank integer,
    constraint listed check ((list_day is null) = (list_rank is null) and (list_day is null or arm = 'contact')),
    constraint closed check ((closed_at is not null) = (status in ('kept', 'lost', 'dismissed', 'expired'))),
    constraint assigned_to_somebody check (status <> 'assigned' or owner is not null)
) with (fillfactor = 80);
create unique index retention_cases_one_open on retention_cases (customer_id) where closed_at is null;
create index retention_cases_customer_id on retention_cases (customer_id);
create index retention_cases_called on retention_cases (customer_id, contacted_at) where contacted_at is not null;
create index retention_cases_lost on retention_cases (customer_id, closed_at) where status = 'lost';
create index retention_cases_waiting on retention_cases (arm, priority) where status in ('open', 'assigned');
create index retention_cases_waiting_controls on retention_cases (control_share)
    where arm = 'control' and status in ('open', 'assigned');
create index retention_cases_contacted_at on retention_cases (contacted_at) where contacted_at is not null;
create index retention_cases_unexplained on retention_cases (event_id)
    where closed_at is null and explained_event_id is distinct from event_id;
create index retention_cases_reopened on retention_cases (reopened_at) where reopened_at is not null;
create index retention_cases_owner on retention_cases (owner, case_id) where owner is not null;
create index retention_cases_listed on retention_cases (list_rank) where list_rank is not null;
comment on table retention_cases is
    'Cases: a customer at risk who may be called. A customer has at most one that is not closed';
comment on column retention_cases.case_id is 'Number of the case';
comment on column retention_cases.customer_id is 'Id of the customer';
comment on column retention_cases.arm is
    'contact, or control: a share of the customers, chosen at random, who are never called';
comment on column retention_cases.control_share is 'CONTROL_SHARE that the arm follows from';
comment on column retention_cases.status is
    'open, assigned, contacted (waits for the outcome), or closed: kept, lost, dismissed or expired';
comment on column retention_cases.owner is 'Who cares for the customer; null if nobody yet';
comment on column retention_cases.notes is 'Notes of the retention team';
comment on column retention_cases.opened_at is 'When the case was opened';
comment on column retention_cases.contacted_at is 'When the customer was called; null if not yet';
comment on column retention_cases.closed_at is 'When the case was closed; null until then';
comment on column retention_cases.reopened_at is
    'When somebody took back a call or the end of the case; null again when the worker has compared it with the customer''s latest score';
comment on column retention_cases.reason is 'Why the case has its status, if the platform has set it';
comment on column retention_cases.event_id is 'The customer''s latest event: greatest event time, then offset';
comment on column retention_cases.event_timestamp is 'Time of that event';
comment on column retention_cases.kafka_offset is 'Its offset in its Kafka partition';
comment on column retention_cases.model_version is 'Model version that scored it';
comment on column retention_cases.risk_score is 'Its probability of churn, 0 to 1';
comment on column retention_cases.highest_risk_score is 'Highest probability of churn since the case was opened, 0 to 1';
comment on column retention_cases.reasons is
    'What raises the risk, as sentences, strongest first; null until explained, moments after the event';
comment on column retention_cases.explained_event_id is 'Event that the reasons are about';
comment on column retention_cases.money_at_risk is
    'Money that is lost with the customer, in the currency of the schema; null if the schema names no such column';
comment on column retention_cases.priority is
    'Expected value of a call: risk x success rate x value of the customer - cost of the call';
comment on column retention_cases.segments is 'The customer''s value or band in each segment of the schema';
comment on column retention_cases.link is 'The customer in your own CRM (CUSTOMER_URL); null without one';
comment on column retention_cases.list_day is 'Day of the call list that the case is on; null if it is on none';
comment on column retention_cases.list_rank is 'Place on that list when it was ranked; v_call_list has the place now';

create table retention_case_history (
    change bigint generated always as identity primary key,
    case_id bigint not null references retention_cases,
    changed_at timestamptz not null default now(),
    changed_by text not null,
    login text not null,
    status text not null,
    owner text,
    notes text,
    reason text,
    takes_back bigint references retention_case_history
);
create index retention_case_history_case_id on retention_case_history (case_id, change);
create index retention_case_history_calls on retention_case_history (changed_by, case_id) where status = 'contacted';
comment on table retention_case_history is 'Every change of a case''s status, owner or notes: who changed what, and when';
comment on column retention_case_history.change is 'Number of the change, in order';
comment on column retention_case_history.case_id is 'Case';
comment on column retention_case_history.changed_at is 'When it changed';
comment on column retention_case_history.changed_by is 'Who changed it, as the program says; else the login';
comment on column retention_case_history.login is 'Login of the database that changed it';
comment on column retention_case_history.status is 'Status after the change';
comment on column retention_case_history.owner is 'Owner after the change';
comment on column retention_case_history.notes is 'Notes after the change';
comment on column retention_case_history.reason is 'Reason of the platform, if it has made the change';
comment on column retention_case_history.takes_back is 'Earlier change that this one takes back; null for others';

-- The last change that was not taken back can be taken back for a day, if a person has made it: a change by the platform
-- has another reason than the one before.
create function change_to_take_back(of_case bigint) returns bigint
language sql stable strict security definer set search_path = pg_catalog, public, pg_temp
as $$
    with latest as (
        select h.change, h.changed_at, h.reason
        from retention_case_history h join retention_cases c using (case_id)
        where h.case_id = of_case and c.arm = 'contact' and h.takes_back is null and not exists (
            select from retention_case_history t where t.case_id = of_case and t.takes_back = h.change
        )
        order by h.change desc limit 1
    )
    select l.change
    from latest l cross join lateral (
        select b.reason from retention_case_history b
        where b.case_id = of_case and b.change < l.change order by b.change desc limit 1
    ) before
    where l.changed_at > now() - interval '1 day' and l.reason is not distinct from before.reason;
$$;
revoke all on function change_to_take_back from public;
grant execute on function change_to_take_back to churn_writer, churn_reader, churn_retention;
comment on function change_to_take_back is
    'The change of a case that a person may take back now; null if there is none';

-- One place for these rules, because the retention team's own tools may update the table without this platform's code.
-- It has its owner's rights because it reads the history and do_not_contact.
create function apply_case_status() returns trigger
language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
declare
    taken_back bigint := nullif(current_setting('churn.takes_back', true), '')::bigint;
begin
    if taken_back is not null then
        if taken_back is distinct from change_to_take_back(new.case_id)
            or (new.status, new.owner, new.notes) is distinct from (
                select (h.status, h.owner, h.notes) from retention_case_history h
                where h.case_id = new.case_id and h.change < taken_back order by h.change desc limit 1
            )
        then
            raise exception 'change % of case % cannot be taken back', taken_back, new.case_id
                using errcode = 'CH002';
        end if;
        if new.status in ('open', 'assigned')
            and exists (select from do_not_contact n where n.customer_id = new.customer_id)
        then
            raise exception 'customer % does not want to be called', new.customer_id using errcode = 'CH002';
        end if;
    end if;
    if new.status = old.status then
        return new;
    end if;
    if taken_back is null and not case_status_allowed(old.status, new.status) then
        raise exception 'case % is %, which cannot become %', new.case_id, old.status, new.status
            using errcode = 'CH002';
    end if;
    if new.status in ('open', 'assigned') then
        new.contacted_at := null;
    elsif new.status = 'contacted' then
        new.contacted_at := coalesce(new.contacted_at, now());
    end if;
    if new.status in ('kept', 'lost', 'dismissed', 'expired') then
        new.closed_at := now();
    else
        new.closed_at := null;
    end if;
    if old.status not in ('open', 'assigned') and taken_back is not null then
        new.reopened_at := now();
    end if;
    if new.status not in ('open', 'assigned') then
        new.list_day := null;
        new.list_rank := null;
    end if;
    return new;
end
$$;
comment on function apply_case_status is 'Check a change of a case''s status, and set the times that follow from it';
create trigger apply_case_status before update of status, owner, notes on retention_cases
    for each row execute function apply_case_status();

-- Its owner's rights let the retention team's login add to the history, which it may not change.
create function record_case_change() returns trigger
language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
begin
    insert into retention_case_history (case_id, changed_by, login, status, owner, notes, reason, takes_back)
    values (
        new.case_id, coalesce(nullif(current_setting('churn.actor', true), ''), session_user), session_user,
        new.status, new.owner, new.notes, new.reason, nullif(current_setting('churn.takes_back', true), '')::bigint
    );
    return null;
end
$$;
comment on function record_case_change is 'Add the state of a case to its history';
create trigger record_new_case after insert on retention_cases
    for each row execute function record_case_change();
create trigger record_case_change after update of status, owner, notes on retention_cases
    for each row when ((new.status, new.owner, new.notes) is distinct from (old.status, old.owner, old.notes))
    execute function record_case_change();

-- Both arms enter alike, called or not: this is what the effect of calls is computed from.
create table retention_list_entries (
    entry bigint generated always as identity primary key,
    day date not null,
    entered_at timestamptz not null default now(),
    case_id bigint not null references retention_cases,
    customer_id bigint /* customer id */ not null,
    arm text not null check (arm in ('contact', 'control')),
    rank integer not null,
    priority double precision not null,
    risk_score real not null,
    money_at_risk double precision,
    segments jsonb not null,
    unique (day, customer_id)
);
create index retention_list_entries_customer_id on retention_list_entries (customer_id, day);
create index retention_list_entries_case_id on retention_list_entries (case_id);
comment on table retention_list_entries is
    'Customers who first reached the call list of a day, once in CASE_COOL_OFF_DAYS, and customers of the control group who would have';
comment on column retention_list_entries.entry is 'Number of the entry, in order';
comment on column retention_list_entries.day is 'Day in BUSINESS_TIMEZONE';
comment on column retention_list_entries.entered_at is 'When the customer reached the list';
comment on column retention_list_entries.case_id is 'Case of the customer';
comment on column retention_list_entries.customer_id is 'Id of the customer';
comment on column retention_list_entries.arm is 'contact or control, as stored in the case';
comment on column retention_list_entries.rank is
    'Place on the list at that time, 1 first; in the control arm the place that the customer would have had';
comment on column retention_list_entries.priority is 'Priority at that time';
comment on column retention_list_entries.risk_score is 'Probability of churn at that time, 0 to 1';
comment on column retention_list_entries.money_at_risk is 'Money at risk at that time';
comment on column retention_list_entries.segments is 'The customer''s value or band in each segment at that time';

-- Outcomes are deleted after ARCHIVE_DAYS, so what they say of an entry is kept here as soon as its time is over.
create table retention_entry_outcomes (
    entry bigint primary key references retention_list_entries,
    churned boolean not null,
    contacted boolean not null,
    settled_at timestamptz not null default now()
);
comment on table retention_entry_outcomes is
    'Whether a customer left within OUTCOME_DAYS of entering the call list; without a row the outcome is open or unknown';
comment on column retention_entry_outcomes.entry is 'Entry of retention_list_entries';
comment on column retention_entry_outcomes.churned is 'Whether the customer left';
comment on column retention_entry_outcomes.contacted is 'Whether the customer was called in that time, whatever the arm';
comment on column retention_entry_outcomes.settled_at is 'When this was found';

create table retention_effect (
    date date not null,
    month text not null,
    segment text not null,
    value text not null,
    outcome_days integer not null,
    contact_entered bigint not null,
    contact_open bigint not null,
    contact_unknown bigint not null,
    contact_stayed bigint not null,
    contact_left bigint not null,
    contact_contacted bigint not null,
    contact_churn_rate double precision,
    control_entered bigint not null,
    control_open bigint not null,
    control_unknown bigint not null,
    control_stayed bigint not null,
    control_left bigint not null,
    control_contacted bigint not null,
    control_churn_rate double precision,
    reduction double precision,
    reduction_low double precision,
    reduction_high double precision,
    customers_saved double precision,
    customers_saved_low double precision,
    customers_saved_high double precision,
    money_saved double precision,
    money_saved_low double precision,
    money_saved_high double precision,
    cases_needed bigint,
    conclusion text not null,
    warnings text[] not null,
    updated_at timestamptz not null default now(),
    primary key (date, month, segment, value)
);
comment on table retention_effect is
    'Whether calls help: both arms compared as they were assigned, as known on each day, in total, by month and by segment';
comment on column retention_effect.date is 'Day of the comparison, UTC';
comment on column retention_effect.month is 'Month in which the customers entered the call list, such as 2026-11; or all';
comment on column retention_effect.segment is 'Segment of the customer schema; or all';
comment on column retention_effect.value is 'Value or band of the customers in that segment; or all';
comment on column retention_effect.outcome_days is 'Days after the entry in which a customer has to leave to count (OUTCOME_DAYS)';
comment on column retention_effect.contact_entered is 'Customers of the contact arm who entered the call list';
comment on column retention_effect.contact_open is 'Customers of the contact arm whose time is not over';
comment on column retention_effect.contact_unknown is 'Customers of the contact arm whose time is over and whose outcome is unknown';
comment on column retention_effect.contact_stayed is 'Customers of the contact arm who stayed';
comment on column retention_effect.contact_left is 'Customers of the contact arm who left within outcome_days';
comment on column retention_effect.contact_contacted is 'Customers of the contact arm who were called';
comment on column retention_effect.contact_churn_rate is 'Share of the contact arm that left, of those whose outcome is known, 0 to 1; null if none is';
comment on column retention_effect.control_entered is 'Customers of the control arm who entered the call list';
comment on column retention_effect.control_open is 'Customers of the control arm whose time is not over';
comment on column retention_effect.control_unknown is 'Customers of the control arm whose time is over and whose outcome is unknown';
comment on column retention_effect.control_stayed is 'Customers of the control arm who stayed';
comment on column retention_effect.control_left is 'Customers of the control arm who left within outcome_days';
comment on column retention_effect.control_contacted is 'Customers of the control arm who were called';
comment on column retention_effect.control_churn_rate is 'Share of the control arm that left, of those whose outcome is known, 0 to 1; null if none is';
comment on column retention_effect.reduction is
    'control_churn_rate - contact_churn_rate: above 0, calls help; null if the outcomes of an arm are unknown';
comment on column retention_effect.reduction_low is 'Lower end of its 95 % interval (Newcombe)';
comment on column retention_effect.reduction_high is 'Upper end of its 95 % interval';
comment on column retention_effect.customers_saved is 'Customers with a known outcome who stayed because of calls: reduction x their number';
comment on column retention_effect.customers_saved_low is 'Lower end of its 95 % interval';
comment on column retention_effect.customers_saved_high is 'Upper end of its 95 % interval';
comment on column retention_effect.money_saved is 'What would have been lost with them; null if no amount is known';
comment on column retention_effect.money_saved_low is 'Lower end of its 95 % interval';
comment on column retention_effect.money_saved_high is 'Upper end of its 95 % interval';
comment on column retention_effect.cases_needed is
    'Known outcomes that are still needed until the interval excludes 0, if the rates stay as they are; null if that cannot be said';
comment on column retention_effect.conclusion is 'What the comparison says';
comment on column retention_effect.warnings is 'What makes the comparison invalid or weak';
comment on column retention_effect.updated_at is 'When the row was computed';

-- The retention team's role reads cases of the contact arm, and changes three columns of them. It reads nothing else: a
-- risk score or reason of the control group would show who is in it.
alter table retention_cases enable row level security;
create policy everything on retention_cases to churn_writer using (true) with check (true);
create policy all_cases on retention_cases for select to churn_reader using (true);
create policy contact_arm on retention_cases for select to churn_retention using (arm = 'contact');
create policy contact_arm_changes on retention_cases for update to churn_retention
    using (arm = 'contact') with check (arm = 'contact' and status <> 'expired');
grant select on retention_cases to churn_retention;
grant update (status, owner, notes) on retention_cases to churn_retention;

-- A view has its owner's rights, so each of these has its own condition. As a barrier it is checked before functions of
-- the user's own query can see a row. Ranks have no gaps, although a called customer leaves the list before the worker
-- has ranked it again.
create view v_call_list with (security_barrier = true) as
select
    (row_number() over (order by list_rank))::integer as rank, case_id, customer_id, risk_score, priority, money_at_risk, reasons, status, owner, notes, link,
    list_day, opened_at, event_timestamp, segments
from retention_cases
where arm = 'contact' and list_rank is not null and status in ('open', 'assigned')
order by list_rank;
comment on view v_call_list is 'Whom to call today, best first: the best CASES_PER_DAY cases of the contact arm';
comment on column v_call_list.rank is 'Place on the list, 1 first';
comment on column v_call_list.case_id is 'Number of the case';
comment on column v_call_list.customer_id is 'Id of the customer';
comment on column v_call_list.risk_score is 'Probability of churn at the latest event, 0 to 1';
comment on column v_call_list.priority is 'Expected value of the call';
comment on column v_call_list.money_at_risk is 'Money that is lost with the customer';
comment on column v_call_list.reasons is 'What raises the risk, as sentences, strongest first';
comment on column v_call_list.status is 'open or assigned';
comment on column v_call_list.owner is 'Who cares for the customer';
comment on column v_call_list.notes is 'Notes of the retention team';
comment on column v_call_list.link is 'The customer in your own CRM';
comment on column v_call_list.list_day is 'Day of the list, in BUSINESS_TIMEZONE';
comment on column v_call_list.opened_at is 'When the case was opened';
comment on column v_call_list.event_timestamp is 'Time of the customer''s latest event';
comment on column v_call_list.segments is 'The customer''s value or band in each segment of the schema';
grant select on v_call_list to churn_retention;

create view v_retention_case_history with (security_barrier = true) as
select change, case_id, changed_at, changed_by, login, h.status, h.owner, h.notes, h.reason, takes_back
from retention_case_history h join retention_cases c using (case_id)
where c.arm = 'contact';
comment on view v_retention_case_history is 'The history of the cases of the contact arm';
comment on column v_retention_case_history.change is 'Number of the change, in order';
comment on column v_retention_case_history.case_id is 'Case';
comment on column v_retention_case_history.changed_at is 'When it changed';
comment on column v_retention_case_history.changed_by is 'Who changed it, as the program says; else the login';
comment on column v_retention_case_history.login is 'Login of the database that changed it';
comment on column v_retention_case_history.status is 'Status after the change';
comment on column v_retention_case_history.owner is 'Owner after the change';
comment on column v_retention_case_history.notes is 'Notes after the change';
comment on column v_retention_case_history.reason is 'Reason of the platform, if it has made the change';
comment on column v_retention_case_history.takes_back is 'Earlier change that this one takes back; null for others';
grant select on v_retention_case_history to churn_retention;


-- 9. Alerts ----------------------------------------------------------------------------------------------------------

-- A sender commits the status 'sending' before it sends. Neither e-mail nor a webhook can be asked later whether it took
-- a message, so a message whose sender died is 'in_doubt' until an operator decides.
create table alert_outbox (
    id bigint generated always as identity primary key,
    kind text not null check (kind in ('case', 'digest', 'operator')),
    reference text not null,
    target text not null,
    payload jsonb not null,
    idempotency_key uuid not null default gen_random_uuid(),
    status text not null default 'pending' check (status in ('pending', 'sending', 'sent', 'in_doubt', 'failed')),
    created_at timestamptz not null default now(),
    expires_at timestamptz,
    attempts integer not null default 0,
    next_attempt timestamptz not null default now(),
    claimed_at timestamptz,
    claimed_by integer,
    sent_at timestamptz,
    last_error text,
    dismissed_at timestamptz,
    unique (kind, reference, target)
);
create index alert_outbox_pending on alert_outbox (target, next_attempt) where status = 'pending';
create index alert_outbox_unsettled on alert_outbox (status) where status in ('sending', 'in_doubt', 'failed');
comment on table alert_outbox is 'Messages to the retention team and to operators: one row per message and target';
comment on column alert_outbox.id is 'Number of the row';
comment on column alert_outbox.kind is
    'case: a customer to call; digest: several; operator: a problem of the platform that began, lasts or ended';
comment on column alert_outbox.reference is
    'What the message is about: the case, the time of the digest in BUSINESS_TIMEZONE, or the condition and its state; a target gets one message about it';
comment on column alert_outbox.target is 'Name of the target in ALERT_TARGETS or OPERATOR_TARGETS; addresses are not stored';
comment on column alert_outbox.payload is 'subject and text of the message; cases or condition as data';
comment on column alert_outbox.idempotency_key is
    'Sent with every attempt, as Message-ID or in the header Idempotency-Key, so that a receiver can recognize a repetition';
comment on column alert_outbox.status is
    'pending; sending: a sender has claimed it; sent: the receiver took it; in_doubt: it may have; failed: it did not, and there will be no other attempt';
comment on column alert_outbox.created_at is 'When the message was written';
comment on column alert_outbox.expires_at is 'When a pending message becomes failed; null if never';
comment on column alert_outbox.attempts is 'Attempts to send it';
comment on column alert_outbox.next_attempt is 'Earliest time of the next attempt';
comment on column alert_outbox.claimed_at is 'When a sender last claimed it';
comment on column alert_outbox.claimed_by is
    'Number of the advisory lock that this sender holds until its session ends';
comment on column alert_outbox.sent_at is 'When the receiver took it, or when an operator confirmed that';
comment on column alert_outbox.last_error is 'Why the last attempt did not succeed; it names no address';
comment on column alert_outbox.dismissed_at is 'When an operator decided that a failed message is no longer wanted';

create table alerted_cases (
    day date not null,
    case_id bigint not null,
    kind text not null,
    reference text not null,
    event_ids uuid[] not null,
    alerted_at timestamptz not null default now(),
    primary key (day, case_id)
);
create index alerted_cases_reference on alerted_cases (kind, reference);
create index alerted_cases_case_id on alerted_cases (case_id);
comment on table alerted_cases is 'Cases that a message was written about: each at most once a day';
comment on column alerted_cases.day is 'Day of the call list, in BUSINESS_TIMEZONE';
comment on column alerted_cases.case_id is 'The case';
comment on column alerted_cases.kind is 'kind of the message in alert_outbox';
comment on column alerted_cases.reference is 'reference of the message in alert_outbox';
comment on column alerted_cases.event_ids is
    'Events of the case: their rows in high_risk_customers get alert_sent once a target has the message';
comment on column alerted_cases.alerted_at is 'When the message was written';

create table operator_conditions (
    id bigint generated always as identity primary key,
    name text not null,
    subject text not null,
    details text not null,
    began timestamptz not null,
    clear_since timestamptz,
    ended timestamptz,
    reminders integer not null default 0,
    last_reminder timestamptz
);
create unique index operator_conditions_open on operator_conditions (name, subject) where ended is null;
comment on table operator_conditions is 'Problems of the platform that operators were told about, from beginning to end';
comment on column operator_conditions.id is 'Number of the row';
comment on column operator_conditions.name is 'Name of the condition';
comment on column operator_conditions.subject is 'What has the problem, such as a job; empty where there is only one';
comment on column operator_conditions.details is 'Latest measurement, human-readable';
comment on column operator_conditions.began is 'When the condition was first found';
comment on column operator_conditions.clear_since is 'Since when it is no longer found; null while it is';
comment on column operator_conditions.ended is 'When it ended; null until then';
comment on column operator_conditions.reminders is 'Reminders sent';
comment on column operator_conditions.last_reminder is 'When the latest reminder was written';


-- 10. Summaries ------------------------------------------------------------------------------------------------------

-- The worker follows the stream and keeps these tables, so that no page and no view has to read predictions. They are at
-- most 5 s behind the stream while the worker runs.
create table summary_state (
    only_row boolean primary key default true check (only_row),
    definition text not null,
    control_share double precision not null,
    began timestamptz not null default now(),
    built timestamptz,
    followed_at timestamptz not null default now()
);
comment on table summary_state is 'What the summary tables were computed with, and how current they are';
comment on column summary_state.only_row is 'Always true, so that the table has at most one row';
comment on column summary_state.definition is
    'Expressions of segments, money at risk and averages; if they change, the worker computes the summaries again';
comment on column summary_state.control_share is 'CONTROL_SHARE that the arms in customer_summary follow from';
comment on column summary_state.began is 'When the worker began to compute the summaries from the first event on';
comment on column summary_state.built is
    'When they first had all predictions; null until then, while the views show only a part';
comment on column summary_state.followed_at is 'When they were last changed';

-- Pages read this table in the order of each of these indexes, the last column being the tie-break.
create table customer_summary (
    customer_id bigint /* customer id */ primary key,
    event_id uuid not null,
    event_timestamp timestamptz not null,
    batch text not null,
    kafka_partition integer not null,
    kafka_offset bigint not null,
    model_version integer not null,
    risk_score real not null,
    prediction smallint not null,
    high_risk boolean not null,
    money_at_risk double precision,
    segments jsonb not null,
    previous_event_id uuid,
    previous_event_timestamp timestamptz,
    previous_kafka_offset bigint,
    previous_batch text,
    previous_risk_score real,
    first_event_timestamp timestamptz not null,
    predictions bigint not null check (predictions > 0),
    arm text not null check (arm in ('contact', 'control'))
) with (fillfactor = 80);
create index customer_summary_risk_score on customer_summary (risk_score desc, customer_id desc);
-- An unknown amount is less than any other, so that pages can continue after each row by comparing both columns.
create index customer_summary_money_at_risk
    on customer_summary ((coalesce(money_at_risk, '-infinity')) desc, customer_id desc);
create index customer_summary_event_timestamp on customer_summary (event_timestamp desc, customer_id desc);
create index customer_summary_segments on customer_summary using gin (segments jsonb_path_ops);
-- There are few combinations of segments. With all of them in its statistics, PostgreSQL knows how many customers have one.
alter table customer_summary alter column segments set statistics 1000;
comment on table customer_summary is
    'One row per customer: the latest event, which is the one with the greatest event_timestamp, then kafka_offset, then event_id';
comment on column customer_summary.customer_id is 'Id of the customer';
comment on column customer_summary.event_id is 'The customer''s latest event';
comment on column customer_summary.event_timestamp is 'Time of the latest event';
comment on column customer_summary.batch is 'Batch that read the latest event';
comment on column customer_summary.kafka_partition is 'Partition of the events topic that the latest event is in';
comment on column customer_summary.kafka_offset is 'Offset of the latest event in the partition';
comment on column customer_summary.model_version is 'Model version that scored the latest event';
comment on column customer_summary.risk_score is 'Probability of churn at the latest event, 0 to 1';
comment on column customer_summary.prediction is '1 if risk_score reached the threshold of the model version, else 0';
comment on column customer_summary.high_risk is 'Whether risk_score is at least the high-risk threshold of the batch';
comment on column customer_summary.money_at_risk is
    'Money that is lost with the customer, in the currency of the schema; null if the schema names no such column';
comment on column customer_summary.segments is 'The customer''s value or band in each segment of the schema at the latest event';
comment on column customer_summary.previous_event_id is 'The customer''s latest event but one; null if there is only one';
comment on column customer_summary.previous_event_timestamp is 'Time of that event';
comment on column customer_summary.previous_kafka_offset is 'Offset of that event';
comment on column customer_summary.previous_batch is 'Batch that read that event';
comment on column customer_summary.previous_risk_score is 'Probability of churn at that event, for the trend';
comment on column customer_summary.first_event_timestamp is 'Time of the customer''s earliest event';
comment on column customer_summary.predictions is 'Number of the customer''s predictions';
comment on column customer_summary.arm is
    'contact or control: the arm of a case of this customer, from the customer''s id and CONTROL_SHARE';

create table customer_segment_summary (
    segments jsonb not null,
    arm text not null check (arm in ('contact', 'control')),
    customers bigint not null,
    high_risk_customers bigint not null,
    risk_sum numeric not null,
    money_at_risk numeric not null,
    primary key (segments, arm)
) with (fillfactor = 50);
comment on table customer_segment_summary is 'Sums of customer_summary by combination of segments and arm';
comment on column customer_segment_summary.segments is 'Value or band in each segment of the schema';
comment on column customer_segment_summary.arm is 'Arm of the customers: contact or control';
comment on column customer_segment_summary.customers is 'Number of customers';
comment on column customer_segment_summary.high_risk_customers is 'Customers whose latest event is high risk';
comment on column customer_segment_summary.risk_sum is 'Sum of the customers'' latest risk scores';
comment on column customer_segment_summary.money_at_risk is 'Sum of money_at_risk of the high-risk customers';

create table prediction_summary (
    date date not null,
    model_version integer not null,
    segments jsonb not null,
    total_predictions bigint not null,
    churn_count bigint not null,
    risk_sum numeric not null,
    high_risk_count bigint not null,
    confidence_sum numeric not null,
    high_confidence_count bigint not null,
    low_confidence_count bigint not null,
    labelled_count bigint not null,
    correct_count bigint not null,
    labelled_churn_count bigint not null,
    left_count bigint not null,
    left_churn_count bigint not null,
    -- customer columns of prediction_summary
    primary key (date, model_version, segments)
) with (fillfactor = 50);
comment on table prediction_summary is
    'Sums of predictions by day of the event, model version and combination of segments; they stay when predictions are archived';
comment on column prediction_summary.date is 'Day of the events, UTC';
comment on column prediction_summary.model_version is 'Model version that made the predictions';
comment on column prediction_summary.segments is 'Value or band of the customer in each segment of the schema';
comment on column prediction_summary.total_predictions is 'Number of predictions';
comment on column prediction_summary.churn_count is 'Predictions of churn';
comment on column prediction_summary.risk_sum is 'Sum of the risk scores';
comment on column prediction_summary.high_risk_count is 'High-risk predictions: a risk score of at least HIGH_RISK_THRESHOLD when the batch was opened';
comment on column prediction_summary.confidence_sum is 'Sum of the probabilities of the more likely class';
comment on column prediction_summary.high_confidence_count is 'Predictions with a confidence of at least 0.8';
comment on column prediction_summary.low_confidence_count is 'Predictions with a confidence below 0.6';
comment on column prediction_summary.labelled_count is 'Predictions whose event has a label';
comment on column prediction_summary.correct_count is 'Labelled predictions that are right';
comment on column prediction_summary.labelled_churn_count is 'Labelled predictions of churn';
comment on column prediction_summary.left_count is 'Labelled predictions of customers who left';
comment on column prediction_summary.left_churn_count is 'Predictions of churn of customers who left';

create table stream_minutes (
    minute timestamptz primary key,
    predictions bigint not null,
    dead_letters bigint not null,
    latency_counts bigint[] not null
) with (fillfactor = 50);
comment on table stream_minutes is
    'What the stream did in each minute of the last 8 days; a replay changes nothing in it';
comment on column stream_minutes.minute is 'Start of the minute';
comment on column stream_minutes.predictions is 'Events that were scored in the minute';
comment on column stream_minutes.dead_letters is 'Dead letters that were read in the minute';
comment on column stream_minutes.latency_counts is
    'The predictions by milliseconds from event_timestamp to predicted_at: below 5, 10, 20, 30, 50, 75, 100, 150, 200, 300, 500, 750, 1000, 2000, 5000, 10000, 30000, 60000, 300000, 3600000, and more';


-- 11. Views ----------------------------------------------------------------------------------------------------------

create table customer_views (
    name text primary key,
    definition text not null
);
comment on table customer_views is
    'Views that read customers'' columns; ''churn db upgrade'' replaces one whose definition changed';
comment on column customer_views.name is 'Name of the view';
comment on column customer_views.definition is 'Its query and comments';

-- Read from the sums that every commit updates, so the view is as current as the latest commit.
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
comment on view v_realtime_dashboard is 'Metrics of each of the last 24 hours, as of the latest commit';
comment on column v_realtime_dashboard.hour_timestamp is 'Start of the hour, UTC';
comment on column v_realtime_dashboard.total_predictions is 'Number of predictions';
comment on column v_realtime_dashboard.churn_count is 'Predictions of churn';
comment on column v_realtime_dashboard.churn_rate is 'churn_count as a percentage of total_predictions, 0 to 100';
comment on column v_realtime_dashboard.avg_risk_score is 'Mean risk score, 0 to 1';
comment on column v_realtime_dashboard.high_risk_count is 'High-risk predictions: a risk score of at least HIGH_RISK_THRESHOLD when the batch was opened';

-- The rate of seven days is computed from all their predictions, so a day with few predictions has little weight. Days
-- without predictions count as days.
create view v_churn_trends as
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
comment on view v_churn_trends is 'Daily metrics of the last 90 days with their trends';
comment on column v_churn_trends.date is 'Day of the events, UTC';
comment on column v_churn_trends.total_predictions is 'Number of predictions';
comment on column v_churn_trends.churn_count is 'Predictions of churn';
comment on column v_churn_trends.churn_rate is 'churn_count as a percentage of total_predictions, 0 to 100';
comment on column v_churn_trends.avg_risk_score is 'Mean risk score, 0 to 1';
comment on column v_churn_trends.high_risk_count is 'High-risk predictions: a risk score of at least HIGH_RISK_THRESHOLD when the batch was opened';
comment on column v_churn_trends.churn_rate_change is
    'Change of churn_rate from the previous day in the table, in percentage points';
comment on column v_churn_trends.churn_rate_7_days is
    'Percentage of churn among all predictions of the day and the six days before, 0 to 100';

-- Sums are added up for each combination of segments, of which there are few, and then for each segment.
create view v_segment_churn as
select
    s.segment,
    s.value,
    sum(g.total_predictions)::bigint as total_predictions,
    sum(g.churn_count)::bigint as churn_count,
    (100.0 * sum(g.churn_count) / sum(g.total_predictions))::double precision as churn_rate,
    (sum(g.risk_sum) / sum(g.total_predictions))::double precision as avg_risk_score,
    sum(g.high_risk_count)::bigint as high_risk_count
from (
    select
        segments,
        sum(total_predictions) as total_predictions,
        sum(churn_count) as churn_count,
        sum(risk_sum) as risk_sum,
        sum(high_risk_count) as high_risk_count
    from prediction_summary
    where date > (now() at time zone 'utc')::date - 30
    group by segments
) as g
cross join lateral jsonb_each_text(g.segments) as s (segment, value)
group by s.segment, s.value
order by s.segment, s.value;
comment on view v_segment_churn is
    'Predictions of the last 30 days, UTC, by segment and its value, which the customer schema defines';
comment on column v_segment_churn.segment is 'Column of churn_predictions';
comment on column v_segment_churn.value is
    'Its value or band; missing for null, other for a category that the schema does not list';
comment on column v_segment_churn.total_predictions is 'Number of predictions';
comment on column v_segment_churn.churn_count is 'Predictions of churn';
comment on column v_segment_churn.churn_rate is 'churn_count as a percentage of total_predictions, 0 to 100';
comment on column v_segment_churn.avg_risk_score is 'Mean risk score, 0 to 1';
comment on column v_segment_churn.high_risk_count is 'High-risk predictions: a risk score of at least HIGH_RISK_THRESHOLD when the batch was opened';

-- Confidence is the probability of the more likely class. 30 days of UTC, today included.
create view v_model_performance as
select
    date,
    model_version,
    sum(total_predictions)::bigint as total_predictions,
    (sum(confidence_sum) / sum(total_predictions))::double precision as avg_confidence,
    sum(high_confidence_count)::bigint as high_confidence_count,
    sum(low_confidence_count)::bigint as low_confidence_count,
    sum(labelled_count)::bigint as labelled_count,
    (sum(correct_count) / nullif(sum(labelled_count), 0))::double precision as accuracy,
    (sum(left_churn_count) / nullif(sum(labelled_churn_count), 0))::double precision as precision,
    (sum(left_churn_count) / nullif(sum(left_count), 0))::double precision as recall
from prediction_summary
where date > (now() at time zone 'utc')::date - 30
group by date, model_version
order by date desc, model_version desc;
comment on view v_model_performance is
    'Confidence per day and model version on the last 30 days, UTC, and accuracy where the events had labels';
comment on column v_model_performance.date is 'Day of the events, UTC';
comment on column v_model_performance.model_version is 'Model version that made the predictions';
comment on column v_model_performance.total_predictions is 'Number of predictions';
comment on column v_model_performance.avg_confidence is 'Mean probability of the more likely class, 0.5 to 1';
comment on column v_model_performance.high_confidence_count is 'Predictions with a confidence of at least 0.8';
comment on column v_model_performance.low_confidence_count is 'Predictions with a confidence below 0.6';
comment on column v_model_performance.labelled_count is 'Predictions whose event has a label';
comment on column v_model_performance.accuracy is
    'Share of labelled predictions that are right, 0 to 1; null without labels';
comment on column v_model_performance.precision is
    'Share of labelled predictions of churn that are right, 0 to 1; null if there are none';
comment on column v_model_performance.recall is
    'Share of labelled customers who left who were predicted to leave, 0 to 1; null if none left';

reset role;

-- migrate:down

-- Drops everything except the extension and the schemas of Dagster and MLflow, whose tables are given to the login
-- that runs this. The right of PUBLIC to create tables is not restored: PostgreSQL 15 and later never grant it.
alter table schema_migrations owner to current_user;
drop schema optuna cascade;
reassign owned by churn_writer, churn_reader, churn_retention to current_user;
drop owned by churn_writer;  -- one by one: PostgreSQL cannot drop a default privilege together with its grantee
drop owned by churn_reader;
drop owned by churn_retention;
drop owned by churn_owner;
do $$
declare
    place record;
    unwanted text;
begin
    for place in
        select nspname from pg_namespace where obj_description(oid, 'pg_namespace') = 'Made by churn_platform'
    loop
        execute format('comment on schema %I is null', place.nspname);
    end loop;
    foreach unwanted in array array['churn_owner', 'churn_writer', 'churn_reader', 'churn_retention'] loop
        begin
            execute format('drop role %I', unwanted);
        exception
            when dependent_objects_still_exist then raise notice 'The role % stays: another database uses it', unwanted;
            when insufficient_privilege then raise notice 'The role % stays: somebody else created it', unwanted;
        end;
    end loop;
end
$$;
