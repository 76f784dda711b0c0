"""What the commands share: the two consoles, and errors on one screen."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.text import Text

output = Console()
complaints = Console(stderr=True)


@contextmanager
def plain_errors() -> Iterator[None]:
    """Show an error that a user can do something about on one screen, and end with exit code 1; let others through."""
    import psycopg
    from confluent_kafka import KafkaException

    from churn_platform.clean.plan import CleanError
    from churn_platform.customers.exceptions import CustomersFileError
    from churn_platform.demo.exceptions import DemoError
    from churn_platform.local.errors import StackError
    from churn_platform.modeling.exceptions import BundleError, TrainingDataError
    from churn_platform.settings import SettingsError
    from churn_platform.storage.exceptions import ArtifactNotFoundError, ArtifactStoreError
    from churn_platform.storage.migrations import MigrationError
    from churn_platform.storage.model_versions import ModelVersionError
    from churn_platform.streaming.exceptions import StreamError

    try:
        yield
    except (ArtifactStoreError, StackError) as error:
        complaints.print(Text(error.remedy, style="bold"), soft_wrap=True)
        complaints.print(Text(error.problem, style="red"), soft_wrap=True)
        if isinstance(error, StackError) and error.details:
            complaints.print(Text(error.details, style="dim"), soft_wrap=True)
        raise typer.Exit(1) from error
    except MigrationError as error:
        remedy = "Mend the migration or the database, then run 'churn db upgrade'."
        complaints.print(Text(remedy, style="bold"), soft_wrap=True)
        complaints.print(Text(str(error), style="red"), soft_wrap=True)
        raise typer.Exit(1) from error
    except KafkaException as error:
        complaints.print(Text("Is Kafka up? 'churn status' shows the embedded one.", style="bold"), soft_wrap=True)
        complaints.print(Text(error.args[0].str(), style="red"), soft_wrap=True)
        raise typer.Exit(1) from error
    except psycopg.OperationalError as error:
        complaints.print(Text("Is PostgreSQL up? 'churn status' shows the embedded one.", style="bold"), soft_wrap=True)
        complaints.print(Text(str(error), style="red"), soft_wrap=True)
        raise typer.Exit(1) from error
    except (
        ArtifactNotFoundError,
        BundleError,
        CleanError,
        CustomersFileError,
        DemoError,
        ModelVersionError,
        SettingsError,
        StreamError,
        TrainingDataError,
    ) as error:
        complaints.print(Text(str(error), style="red"), soft_wrap=True)
        raise typer.Exit(1) from error


def duration(seconds: float | None) -> str:
    """A number of seconds for a person, "" for None."""
    if seconds is None:
        return ""
    minutes, hours = seconds / 60, seconds / 3600
    return f"{hours:.0f} h" if hours >= 2 else f"{minutes:.0f} min" if minutes >= 2 else f"{seconds:.0f} s"
