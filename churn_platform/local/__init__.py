"""The embedded servers on this machine: Kafka, PostgreSQL, MLflow, Dagster, and their supervision.

Only `commands/` and the tests import this package; nothing else knows that a server is embedded.
"""
