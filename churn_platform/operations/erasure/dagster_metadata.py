"""What Dagster shows of one customer: rows in previews of assets, and ids in errors and logs of runs."""

import json
from collections.abc import Iterator

import psycopg

from churn_platform.database import dagster_documents
from churn_platform.database.dagster_documents import Document
from churn_platform.operations.erasure.mentions import Mentions


def find(connection: psycopg.Connection, mentions: Mentions) -> Iterator[tuple[Document, str, int]]:
    """Yield the documents that show a customer, each without the customer, and how many rows and mentions it had."""
    if not dagster_documents.exist(connection):
        return
    written = json.dumps(str(mentions.customer_id))[1:-1]
    for document in dagster_documents.mentioning(connection, written):
        content, count = mentions.erase(document.content)
        if count:
            yield document, content, count


def erase(connection: psycopg.Connection, mentions: Mentions) -> int:
    """Take the customer out of all documents that show it; return how many these were."""
    changed = 0
    for document, content, _ in find(connection, mentions):
        dagster_documents.replace(connection, document, content)
        changed += 1
    return changed
