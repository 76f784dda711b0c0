-- migrate:up

-- What 'churn clean' may delete besides the tables of churn_owner: only what bears a mark of the platform's own.
set local role churn_owner;
create table created_topics (
    topic_id text primary key,
    topic text not null,
    created_at timestamptz not null default now()
);
comment on table created_topics is 'Topics that the platform made, by Kafka''s id: made anew by somebody else it is another topic';
reset role;

-- Only a schema that is still empty is surely there for Dagster's or MLflow's tables alone.
do $$
declare
    place record;
begin
    for place in
        select nspname from pg_namespace n
        where nspname in ('dagster', 'mlflow') and pg_has_role(nspowner, 'usage')
          and not exists (select from pg_class c where c.relnamespace = n.oid)
    loop
        execute format('comment on schema %I is %L', place.nspname, 'Made by churn_platform');
    end loop;
end
$$;

-- migrate:down
drop table created_topics;
do $$
declare
    place record;
begin
    for place in
        select nspname from pg_namespace where obj_description(oid, 'pg_namespace') = 'Made by churn_platform'
    loop
        execute format('comment on schema %I is null', place.nspname);
    end loop;
end
$$;
