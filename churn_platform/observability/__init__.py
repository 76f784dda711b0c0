"""Metrics, alert rules and dashboards for operators who use Prometheus, Alertmanager and Grafana."""
