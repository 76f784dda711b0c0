-- Predictions of the last 30 days by country
-- needs: geography text, age number, balance number
-- geography: Country of the customer's account
-- total_predictions: Number of predictions
-- churn_count: Predictions of churn
-- churn_rate: churn_count as a percentage of total_predictions, 0 to 100
-- avg_risk_score: Mean risk score, 0 to 1
-- high_risk_count: High-risk predictions: a risk score of at least HIGH_RISK_THRESHOLD when the batch was opened
-- avg_age: Mean of the known ages, in years
-- avg_balance: Mean balance, in euros
select
    geography,
    count(*) as total_predictions,
    sum(prediction)::bigint as churn_count,
    100.0 * sum(prediction) / count(*)::double precision as churn_rate,
    avg(risk_score) as avg_risk_score,
    count(*) filter (where risk_score::double precision >= high_risk_threshold) as high_risk_count,
    avg(age) as avg_age,
    avg(balance) as avg_balance
from churn_predictions
left join stream_batches using (batch)
where event_timestamp > now() - interval '30 days'
group by geography
order by churn_rate desc
