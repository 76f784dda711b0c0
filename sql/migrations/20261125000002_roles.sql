-- migrate:up

-- Three roles without a login, known to the whole server: churn_owner has the tables, churn_writer is the platform,
-- churn_reader looks. Logins are members of one of them and are made by whoever runs the server.
--
-- A later migration begins with "set local role churn_owner;" and ends with "reset role;" in both directions, so that
-- what it makes belongs to churn_owner; the grants below come by themselves. (The reset is for dbmate, which records
-- the migration next, in the same transaction.)
do $$
declare
    wanted text;
    usable boolean;
begin
    foreach wanted in array array['churn_owner', 'churn_writer', 'churn_reader'] loop
        begin
            if not exists (select from pg_roles where rolname = wanted) then
                execute format('create role %I nologin', wanted);
            end if;
        exception
            when duplicate_object or unique_violation then
                raise notice 'role % was made by another migration meanwhile', wanted;
            when insufficient_privilege then
                raise exception 'The role % does not exist, and % may not create it. Run as a superuser: create role churn_owner nologin; create role churn_writer nologin; create role churn_reader nologin; grant churn_owner, churn_writer, churn_reader to %; and then this migration again.', wanted, quote_ident(current_user), quote_ident(current_user);
        end;
        for attempt in 1..2 loop
            -- A superuser can use every role. Since PostgreSQL 16 a role's creator administers it, and no more.
            usable := pg_has_role(wanted, 'usage') and case
                when current_setting('server_version_num')::integer >= 160000 then pg_has_role(wanted, 'set')
                else true
            end;
            exit when usable;
            begin
                execute format('grant %I to current_user', wanted);
            exception
                when unique_violation then
                    raise notice 'role % was granted by another migration meanwhile', wanted;
                when insufficient_privilege then
                    raise exception '% is not a member of the role %, and may not make itself one. Run as a superuser: grant churn_owner, churn_writer, churn_reader to %; and then this migration again.', quote_ident(current_user), wanted, quote_ident(current_user);
            end;
        end loop;
    end loop;
end
$$;

do $$
declare
    home text := current_schema();
    shared text;
    named text;
    creator text;
    place record;
begin
    execute format('grant connect, create, temporary on database %I to churn_owner', current_database());
    execute format('grant connect, temporary on database %I to churn_writer', current_database());
    execute format('grant connect on database %I to churn_reader', current_database());

    execute format('revoke create on schema %I from public', home);
    execute format('grant usage, create on schema %I to churn_owner', home);
    execute format('grant usage on schema %I to churn_writer, churn_reader', home);
    foreach shared in array array['dagster', 'mlflow'] loop
        execute format('grant usage, create on schema %I to churn_writer', shared);
    end loop;

    -- Who does not own a schema gets a warning for a grant on it, which nobody would see.
    for place in
        select * from (values ('churn_owner', home), ('churn_writer', 'dagster'), ('churn_writer', 'mlflow'))
            as v (grantee, place)
        where not has_schema_privilege(grantee, v.place, 'create')
    loop
        raise exception 'The role % may not create tables in the schema %, and % may not grant it. Run as a superuser: grant usage, create on schema % to %; and then this migration again.', place.grantee, quote_ident(place.place), quote_ident(current_user), quote_ident(place.place), place.grantee;
    end loop;

    foreach named in array array[
        'model_versions', 'churn_predictions', 'high_risk_customers', 'stream_topics', 'stream_positions',
        'stream_batches', 'stream_ranges', 'stream_skips', 'stream_pauses', 'dead_letter_events', 'churn_batch_hours',
        'dirty_hours', 'churn_metrics_hourly', 'churn_metrics_daily', 'v_realtime_dashboard', 'v_top_risk_customers',
        'v_geography_churn', 'v_churn_trends', 'v_model_performance'
    ] loop
        execute format('alter table %I owner to churn_owner', named);
        execute format('grant select, insert, update, delete on %I to churn_writer', named);
        execute format('grant select on %I to churn_reader', named);
    end loop;
    alter table schema_migrations owner to churn_owner;  -- so that any of its members can migrate
    grant select on schema_migrations to churn_writer, churn_reader;

    foreach creator in array array['churn_owner', current_user::text] loop
        execute format('alter default privileges for role %I in schema %I
            grant select, insert, update, delete on tables to churn_writer', creator, home);
        execute format('alter default privileges for role %I in schema %I
            grant usage, select, update on sequences to churn_writer', creator, home);
        execute format('alter default privileges for role %I in schema %I
            grant select on tables to churn_reader', creator, home);
    end loop;

    -- Dagster and MLflow change their own tables when they are upgraded, which only an owner can. Sequences that belong
    -- to a column go with its table.
    for place in
        select n.nspname, c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace
        where n.nspname in ('dagster', 'mlflow') and c.relkind in ('r', 'p', 'v', 'm')
          and c.relowner <> 'churn_writer'::regrole and pg_has_role(c.relowner, 'usage')
    loop
        execute format('alter table %I.%I owner to churn_writer', place.nspname, place.relname);
    end loop;
end
$$;

-- migrate:down

-- Everything goes to the login that runs this. What PUBLIC lost stays lost: PostgreSQL 15 and later never gave it.
reassign owned by churn_owner, churn_writer, churn_reader to current_user;
drop owned by churn_writer;  -- one by one: PostgreSQL cannot drop a default privilege together with its grantee
drop owned by churn_reader;
drop owned by churn_owner;
do $$
declare
    unwanted text;
begin
    foreach unwanted in array array['churn_owner', 'churn_writer', 'churn_reader'] loop
        begin
            execute format('drop role %I', unwanted);
        exception
            when dependent_objects_still_exist then raise notice 'role % stays: another database uses it', unwanted;
            when insufficient_privilege then raise notice 'role % stays: somebody else made it', unwanted;
        end;
    end loop;
end
$$;
