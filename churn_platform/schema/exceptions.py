"""Errors of a customer schema and of a customers file: the location, the value, what was expected and the remedy."""

from churn_platform.errors import PlatformError


class SchemaError(PlatformError):
    """A customer schema cannot be used. The message names the file, the key, its value and the remedy."""


class CustomersFileError(PlatformError):
    """A customers file cannot be read."""


class CustomersFileMissingError(CustomersFileError):
    """The file does not exist or cannot be opened."""


class EmptyCustomersFileError(CustomersFileError):
    """The file has no customers: it is empty, or has only a header."""


class HeaderError(CustomersFileError):
    """The header lacks a column, or has one twice."""


class MalformedFileError(CustomersFileError):
    """The file is not comma-separated UTF-8 text with as many values in every row as the header has names."""


class WrongValueError(CustomersFileError):
    """A value does not have the type of its column."""
