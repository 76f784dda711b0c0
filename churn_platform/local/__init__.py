"""The embedded servers on this machine (Kafka, PostgreSQL, MLflow, Dagster) and their supervision.

stack.py starts and stops them. configuration.py determines which servers there are. kafka.py, postgres.py, mlflow.py
and dagster_servers.py describe one each. Nothing that a container also needs belongs here: that is `deployment/`.
"""
