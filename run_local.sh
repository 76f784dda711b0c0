#!/usr/bin/env bash
# The whole platform in containers on this machine: builds what is missing, says what it reused, starts
# docker-compose.yaml. It refuses where another environment publishes to the same topic or from the same database. docs/how-to/run-in-containers.md
set -euo pipefail
cd "$(dirname "$0")"

SECRETS=(POSTGRES_PASSWORD CHURN_PLATFORM_PASSWORD CHURN_ANALYST_PASSWORD)
IMAGE=${CHURN_IMAGE:-churn-platform:local}

say() { printf '%s\n' "$*"; }
fail() { printf '%s\n' "$@" >&2; exit 1; }

# Value of a variable: from the environment, else from .env.
value_of() {
    if [ -n "${!1:-}" ]; then
        printf '%s' "${!1}"
    elif [ -f .env ]; then
        sed -n "s/^$1=//p" .env | tail -n 1 | sed "s/^['\"]//; s/['\"]$//"
    fi
}

# The connection string with another schema for its tables.
in_schema() {
    case $1 in
        *\?*) printf '%s&options=-csearch_path%%3D%s' "$1" "$2" ;;
        *) printf '%s?options=-csearch_path%%3D%s' "$1" "$2" ;;
    esac
}

require_engine() {
    command -v docker > /dev/null \
        || fail "There is no docker on this machine." "Install Docker, or run the platform without containers: make up"
    docker compose version > /dev/null 2>&1 \
        || fail "docker has no compose." "Install its plugin (docker-compose-plugin on Debian and Ubuntu)."
    docker info > /dev/null 2>&1 \
        || fail "The Docker engine does not answer." "Start it, or join the group that may use it ('docker info' says why)."
}

make_secrets() {
    local missing=() name
    for name in "${SECRETS[@]}"; do
        [ -n "$(value_of "$name")" ] || missing+=("$name")
    done
    [ ${#missing[@]} -gt 0 ] || { say "Reused the passwords in .env."; return; }
    if docker volume inspect churn-platform_postgres > /dev/null 2>&1; then
        fail "The database in the volume churn-platform_postgres has passwords already, and these are not set: ${missing[*]}." \
            "Put them back into .env, or give the data up: docker compose down --volumes"
    fi
    (umask 077 && touch .env)
    [ -z "$(tail -c 1 .env)" ] || printf '\n' >> .env
    for name in "${missing[@]}"; do
        printf '%s=%s\n' "$name" "$(od -An -tx1 -N24 /dev/urandom | tr -d ' \n')" >> .env
    done
    say "Wrote new passwords to .env: ${missing[*]}."
}

# A server of your own takes the place of the container.
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
        say "Building $IMAGE anew, with nothing reused."
        docker compose build --no-cache --pull prepare
    elif built_from=$(docker image inspect --format '{{index .Config.Labels "org.opencontainers.image.revision"}}' "$IMAGE" 2> /dev/null); then
        say "Reused the image $IMAGE, built from $built_from."
        [ "$built_from" = "$REVISION" ] \
            || say "The checkout is at $REVISION by now: ./run_local.sh --force-rebuild builds it."
    else
        say "Building $IMAGE, which is not here yet."
        docker compose build prepare
    fi
}

main() {
    local force=no
    case ${1:-} in
        "") ;;
        --force-rebuild) force=yes ;;
        -h | --help) say "Usage: ./run_local.sh [--force-rebuild]"; return ;;
        *) fail "Usage: ./run_local.sh [--force-rebuild]" "Not an option: $1" ;;
    esac
    require_engine
    make_secrets
    use_own_servers
    provide_image "$force"
    if [ -z "$(value_of CHURN_ENVIRONMENT)" ]; then
        CHURN_ENVIRONMENT="docker compose in $PWD on $(hostname)"
        export CHURN_ENVIRONMENT
    fi
    # On its own first: a refusal starts nothing of ours, and its reason is the last thing on the screen.
    docker compose run --rm prepare \
        || fail "" "Not started; the reason is above. What runs for nothing: docker compose stop"
    docker compose up --detach
    say "" "Up." "Dagster http://$(docker compose port webserver 3000)"
    say "What else is open, and how to send events: docs/how-to/run-in-containers.md. Stop: docker compose stop"
}

main "$@"
