"""What can be wrong with a customers file. A message names the place, what is there, what was expected, the remedy."""

from churn_platform.errors import PlatformError


class CustomersFileError(PlatformError):
    """A customers file cannot be read as one."""


class CustomersFileMissingError(CustomersFileError):
    """There is no such file, or it cannot be opened."""


class EmptyCustomersFileError(CustomersFileError):
    """The file has no customers: it is empty, or only a header."""


class HeaderError(CustomersFileError):
    """The header lacks a column, or names one twice."""


class MalformedFileError(CustomersFileError):
    """The file is not comma-separated UTF-8 text with as many values in every row as the header has names."""


class WrongValueError(CustomersFileError):
    """A value cannot be what its column says."""
