"""What a container and the embedded servers both need: Dagster's home, health checks, the MLflow server application.

Nothing here starts or supervises a process, or knows whether a server is embedded: that is `local/`.
"""
