-- migrate:up
set local role churn_owner;

-- Block-range indexes go on to say that old batches and times are where their rows were deleted, and new rows come there:
-- look-ups would decay to full scans. Only the owner of an index may have a range summarized anew, so the writer, who
-- archives, asks through this function. `numbers` are blocks of churn_predictions divided by 32.
create function resummarize_predictions(numbers bigint[]) returns void
language sql security definer set search_path = pg_catalog, public, pg_temp as $$
    select brin_desummarize_range(i.name, min(block)), brin_summarize_range(i.name, min(block))
    from unnest(numbers) as n (number), lateral (select number * 32 as block) as b,
        (values ('churn_predictions_batch'::regclass, 32), ('churn_predictions_event_timestamp', 128)) as i (name, size)
    group by i.name, block / i.size
$$;
revoke all on function resummarize_predictions from public;
grant execute on function resummarize_predictions to churn_writer;

reset role;

-- migrate:down
drop function resummarize_predictions;
