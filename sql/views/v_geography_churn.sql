-- Predictions of the last 30 days, UTC, by country
-- needs: geography segment, age average, balance average
-- geography: Country of the customer's account; missing for null, other for one that the schema does not list
-- total_predictions: Number of predictions
-- churn_count: Predictions of churn
-- churn_rate: churn_count as a percentage of total_predictions, 0 to 100
-- avg_risk_score: Mean risk score, 0 to 1
-- high_risk_count: High-risk predictions: a risk score of at least HIGH_RISK_THRESHOLD when the batch was opened
-- avg_age: Mean of the known ages, in years
-- avg_balance: Mean balance, in euros
select
    segments ->> 'geography' as geography,
    sum(total_predictions)::bigint as total_predictions,
    sum(churn_count)::bigint as churn_count,
    100.0 * sum(churn_count)::bigint / sum(total_predictions)::double precision as churn_rate,
    (sum(risk_sum) / sum(total_predictions))::double precision as avg_risk_score,
    sum(high_risk_count)::bigint as high_risk_count,
    (sum(age_sum) / nullif(sum(age_count), 0))::double precision as avg_age,
    (sum(balance_sum) / nullif(sum(balance_count), 0))::double precision as avg_balance
from prediction_summary
where date > (now() at time zone 'utc')::date - 30
group by 1
order by churn_rate desc
