-- migrate:up

set local role churn_owner;

-- Who became champion, when, by what, and why; model_versions has only the last time of each version.
create table model_promotions (
    promotion bigint generated always as identity primary key,
    version integer not null references model_versions (version),
    promoted_at timestamptz not null default now(),
    promoted_by text not null check (promoted_by in ('training', 'hand', 'alias', 'rollback')),
    reason text not null
);
comment on column model_promotions.promoted_by is 'training: it beat the champion; hand: churn model promote; alias: moved in MLflow; rollback: churn model rollback';

insert into model_promotions (version, promoted_at, promoted_by, reason)
select version, promoted_at, 'training', 'promoted before reasons were kept'
from model_versions where promoted_at is not null order by promoted_at;

reset role;

-- migrate:down

set local role churn_owner;
drop table model_promotions;
reset role;
