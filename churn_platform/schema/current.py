"""The customer schema and the customers file of this installation, as the settings name them."""

from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.schema.exceptions import SchemaError
from churn_platform.schema.toml_file import customers_file, load_schema
from churn_platform.settings import Settings


def schema_of(settings: Settings) -> CustomerSchema:
    """Return the schema that CHURN_SCHEMA names.

    Raises:
        SchemaError: the file is missing or states no valid schema.
    """
    return load_schema(settings.platform.customer_schema)


def customers_of(settings: Settings) -> str:
    """Return where the customers to train on are: a path or an s3:// address.

    Raises:
        SchemaError: neither CHURN_RAW_CSV nor the schema names any.
    """
    found = settings.platform.customers or customers_file(settings.platform.customer_schema)
    if not found:
        raise SchemaError(
            f"Neither CHURN_RAW_CSV nor the schema {settings.platform.customer_schema} names a customers file.",
            remedy="Set CHURN_RAW_CSV to its path, or data_set.customers_file in the schema.",
        )
    return found
