#!/usr/bin/env bash
# Starts the whole platform in containers on this machine: builds the image if it is missing, creates passwords, and runs
# docker-compose.yaml. It stops with an error if another environment uses the same topic or database. See docs/how-to/run-in-containers.md.
set -euo pipefail
cd "$(dirname "$0")"

SECRETS=(POSTGRES_PASSWORD CHURN_PLATFORM_PASSWORD CHURN_ANALYST_PASSWORD CHURN_RETENTION_PASSWORD)
IMAGE=${CHURN_IMAGE:-churn-platform:local}

say() { printf '%s\n' "$*"; }
fail() { printf '%s\n' "$@" >&2; exit 1; }

# Prints the value of a variable: from the environment, else from .env.
value_of() {
    if [ -n "${!1:-}" ]; then
        printf '%s' "${!1}"
    elif [ -f .env ]; then
        sed -n "s/^$1=//p" .env | tail -n 1 | sed "s/^['\"]//; s/['\"]$//"
    fi
}

# Prints the connection string with another schema for its tables.
in_schema() {
    case $1 in
        *\?*) printf '%s&options=-csearch_path%%3D%s' "$1" "$2" ;;
        *) printf '%s?options=-csearch_path%%3D%s' "$1" "$2" ;;
    esac
}

require_engine() {
    command -v docker > /dev/null \
        || fail "docker is not installed on this machine." "Install Docker, or run the platform without containers: make up"
    docker compose version > /dev/null 2>&1 \
        || fail "docker has no compose plugin." "Install it (docker-compose-plugin on Debian and Ubuntu)."
    docker info > /dev/null 2>&1 \
        || fail "The Docker engine does not answer." "Start it, or join the group that may use it. 'docker info' shows the reason."
}

make_secrets() {
    local missing=() name
    for name in "${SECRETS[@]}"; do
        [ -n "$(value_of "$name")" ] || missing+=("$name")
    done
    [ ${#missing[@]} -gt 0 ] || { say "Reused the passwords in .env."; return; }
    if docker volume inspect churn-platform_postgres > /dev/null 2>&1; then
        fail "The database in the volume churn-platform_postgres already has passwords, but these are not set: ${missing[*]}." \
            "Put them back into .env, or delete the data: docker compose down --volumes"
    fi
    (umask 077 && touch .env)
    [ -z "$(tail -c 1 .env)" ] || printf '\n' >> .env
    for name in "${missing[@]}"; do
        printf '%s=%s\n' "$name" "$(od -An -tx1 -N24 /dev/urandom | tr -d ' \n')" >> .env
    done
    say "Wrote new passwords to .env: ${missing[*]}."
}

# Replaces containers by your own servers.
use_own_servers() {
    local database
    database=$(value_of DATABASE_URL)
    if [ -n "$database" ]; then
        export POSTGRES_SCALE=0
        DAGSTER_POSTGRES_URL=$(value_of DAGSTER_POSTGRES_URL)
        MLFLOW_BACKEND_STORE_URI=$(value_of MLFLOW_BACKEND_STORE_URI)
        export DAGSTER_POSTGRES_URL="${DAGSTER_POSTGRES_URL:-$(in_schema "$database" dagster)}"
        export MLFLOW_BACKEND_STORE_URI="${MLFLOW_BACKEND_STORE_URI:-$(in_schema "$database" mlflow)}"
        say "Your own PostgreSQL: DATABASE_URL is set."
    fi
    if [ -n "$(value_of KAFKA_BOOTSTRAP_SERVERS)" ]; then
        export KAFKA_SCALE=0
        say "Your own Kafka: KAFKA_BOOTSTRAP_SERVERS is set."
    fi
    if [ -n "$(value_of MLFLOW_TRACKING_URI)" ]; then
        export MLFLOW_SCALE=0
        say "Your own MLflow: MLFLOW_TRACKING_URI is set."
    fi
}

provide_image() {
    local force=$1 built_from
    REVISION=$(git describe --always --dirty --abbrev=40 --exclude='*' 2> /dev/null || printf unknown)
    export REVISION
    if [ "$force" = yes ]; then
        say "Rebuilding $IMAGE without the cache."
        docker compose build --no-cache --pull prepare
    elif built_from=$(docker image inspect --format '{{index .Config.Labels "org.opencontainers.image.revision"}}' "$IMAGE" 2> /dev/null); then
        say "Reused the image $IMAGE, built from $built_from."
        [ "$built_from" = "$REVISION" ] \
            || say "The checkout is now at $REVISION. To build it: ./run_local.sh --force-rebuild"
    else
        say "Building $IMAGE, which does not exist yet."
        docker compose build prepare
    fi
}

main() {
    local force=no train=no option usage="Usage: ./run_local.sh [--force-rebuild] [--train]"
    for option; do
        case $option in
            --force-rebuild) force=yes ;;
            --train) train=yes ;;
            -h | --help) say "$usage" "--force-rebuild  builds the image again, without the cache" \
                "--train          prepares the customers file and trains a model once everything is up"; return ;;
            *) fail "$usage" "Unknown option: $option" ;;
        esac
    done
    require_engine
    make_secrets
    use_own_servers
    provide_image "$force"
    if [ -z "$(value_of CHURN_ENVIRONMENT_NAME)" ]; then
        CHURN_ENVIRONMENT_NAME="docker compose in $PWD on $(hostname)"
        export CHURN_ENVIRONMENT_NAME
    fi
    # prepare runs alone first. If it fails, none of our servers has started and its error is the last output.
    docker compose run --rm prepare \
        || fail "" "Not started, see the error above. To stop the servers that are running: docker compose stop"
    docker compose up --detach
    say "" "Up." "Dagster    http://$(docker compose port webserver 3000)" "Dashboard  http://$(docker compose port dashboard 8050)"
    say "Who may log in to the dashboard: docker compose exec dashboard churn dashboard add-user NAME --role retention"
    if [ "$train" = yes ]; then
        # A model that is not good enough, or a wrong customers file, does not stop the platform.
        docker compose --profile train run --rm train || fail "" "No model was trained, see the error above. Everything else is up."
    else
        say "Without a model no event is scored. To train one: ./run_local.sh --train"
    fi
    say "Other ports, and how to send events: docs/how-to/run-in-containers.md. To stop: docker compose stop"
}

main "$@"
