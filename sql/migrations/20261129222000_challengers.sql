-- migrate:up

-- Challengers: model versions that are tried on the stream before one of them becomes champion.
set local role churn_owner;

create table challengers (
    challenger bigint generated always as identity primary key,
    kind text not null check (kind in ('shadow', 'canary')),
    model_version integer not null references model_versions (version),
    share double precision not null check (share > 0 and share <= 1),
    started_at timestamptz not null default now(),
    followed_at timestamptz,
    events bigint not null default 0,
    errors bigint not null default 0,
    ended_at timestamptz,
    ended_by text check (ended_by in ('hand', 'promotion', 'rollback', 'failure')),
    reason text,
    check ((ended_at is null) = (ended_by is null) and (ended_at is null) = (reason is null))
) with (fillfactor = 50);
-- Every commit of the stream looks for an active canary.
create unique index challengers_active on challengers (kind) where ended_at is null;
comment on table challengers is
    'Model versions that were or are tried on the stream: as a shadow, or as a canary that decides for a share of the customers';
comment on column challengers.challenger is 'Number of the trial, in order';
comment on column challengers.kind is
    'shadow: its scores are only stored beside those of the champion; canary: its scores are the predictions of its customers';
comment on column challengers.model_version is 'Version that is tried';
comment on column challengers.share is 'Share of the customers, 0 to 1, by a keyed hash of the id';
comment on column challengers.started_at is 'When it was started';
comment on column challengers.followed_at is
    'Up to when the worker has followed the stream for it; null if it has not begun';
comment on column challengers.events is 'Events of the stream that it scored, as far as the worker has followed';
comment on column challengers.errors is
    'Events that it could not score. In a canary the champion scored them';
comment on column challengers.ended_at is 'When it ended; null while it is active';
comment on column challengers.ended_by is
    'hand: churn model shadow or canary --stop; promotion: it became champion; rollback: a bound was exceeded; failure: it could not be used';
comment on column challengers.reason is 'Why it ended, in a sentence';

-- Whoever knows a key can tell which customers have another model.
create table challenger_keys (
    kind text primary key check (kind in ('shadow', 'canary')),
    key bytea not null check (length(key) >= 32),
    created_at timestamptz not null default now()
);
revoke all on challenger_keys from churn_reader;
comment on table challenger_keys is 'The secrets that decide which customers a shadow or a canary scores';
comment on column challenger_keys.kind is 'shadow or canary: each has a key of its own, and neither is that of the control group';
comment on column challenger_keys.key is 'Random key of the hash of customer ids; created at the first start';
comment on column challenger_keys.created_at is 'When the key was created';

create table shadow_predictions (
    event_id uuid not null,
    event_timestamp timestamptz not null,
    scored_at timestamptz not null default now(),
    customer_id bigint /* customer id */ not null,
    model_version integer not null,
    risk_score real not null,
    champion_version integer not null,
    champion_risk_score real not null,
    true_churn_label smallint,
    primary key (event_id, model_version)
);
-- Rows are added in about the order of their times, so a summary of each range of blocks is sufficient.
create index shadow_predictions_scored_at on shadow_predictions using brin (scored_at) with (autosummarize = on);
create index shadow_predictions_customer_id on shadow_predictions (customer_id);
create index shadow_predictions_labelled on shadow_predictions (model_version) where true_churn_label is not null;
comment on table shadow_predictions is
    'Events that a shadow scored, too: its risk score beside that of the prediction. Deleted after ARCHIVE_DAYS';
comment on column shadow_predictions.event_id is 'Event in churn_predictions';
comment on column shadow_predictions.event_timestamp is 'Time of the event';
comment on column shadow_predictions.scored_at is 'When the shadow scored it';
comment on column shadow_predictions.customer_id is 'Id of the customer';
comment on column shadow_predictions.model_version is 'Version that is tried';
comment on column shadow_predictions.risk_score is 'Its probability of churn, 0 to 1';
comment on column shadow_predictions.champion_version is
    'Version that made the prediction, when the worker followed the commit; a replay does not change it';
comment on column shadow_predictions.champion_risk_score is 'The prediction''s probability of churn at that time, 0 to 1';
comment on column shadow_predictions.true_churn_label is
    'The label in the event: 1 if the customer left, 0 if the customer stayed; null if unknown';

create table shadow_comparisons (
    model_version integer primary key references model_versions (version),
    computed_at timestamptz not null default now(),
    comparison jsonb not null
);
comment on table shadow_comparisons is 'The latest comparison of each shadow with the champion, which the dashboard shows';
comment on column shadow_comparisons.model_version is 'Version that is or was tried';
comment on column shadow_comparisons.computed_at is 'When it was computed';
comment on column shadow_comparisons.comparison is 'Counts, distributions, agreement, and performance where outcomes are known';

create table canary_scores (
    challenger bigint not null references challengers,
    is_canary boolean not null,
    bin smallint not null check (bin between 0 and 99),
    predictions bigint not null,
    primary key (challenger, is_canary, bin)
) with (fillfactor = 50);
comment on table canary_scores is
    'Predictions since the start of a canary by risk score, which the worker compares to decide about a rollback';
comment on column canary_scores.challenger is 'The canary';
comment on column canary_scores.is_canary is 'Whether the canary scored them, or the champion';
comment on column canary_scores.bin is 'Risk score in hundredths, rounded down: 0 to 99';
comment on column canary_scores.predictions is 'Number of predictions';

-- Not a column of challengers, so that a commit of the stream never waits for the worker.
create table canary_errors (
    challenger bigint not null references challengers,
    errors bigint not null check (errors > 0)
);
comment on table canary_errors is
    'Events that a canary could not score, by commit of the stream, until the worker adds them to challengers';
comment on column canary_errors.challenger is 'The canary';
comment on column canary_errors.errors is 'Events of one commit';

reset role;

-- migrate:down

drop table canary_errors, canary_scores, shadow_comparisons, shadow_predictions, challenger_keys, challengers;
