"""Variables of Dagster's and MLflow's servers that are not settings of the platform. They are read as secrets are."""

DAGSTER_DATABASE_VARIABLE = "DAGSTER_POSTGRES_URL"
"""Connection string of the schema `dagster`; see dagster_home.py."""

MLFLOW_DATABASE_VARIABLE = "MLFLOW_BACKEND_STORE_URI"
"""Connection string of the schema `mlflow`; see mlflow_server.py."""
