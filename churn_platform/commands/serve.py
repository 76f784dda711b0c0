"""`churn serve`: run the prediction API in this terminal, and say which tokens its requests may have."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from churn_platform.commands.terminal import output, report_errors

app = typer.Typer()

NameArgument = Annotated[str, typer.Argument(help="Name of the token, such as that of the program that uses it.")]


def serve(
    context: typer.Context,
    host: Annotated[str | None, typer.Option(help="Address to listen at.", show_default="API_HOST")] = None,
    port: Annotated[
        int | None, typer.Option(help="Port to listen at.", show_default="API_PORT", min=1, max=65535)
    ] = None,
) -> None:
    """Run the prediction API, which scores customers in requests, until Ctrl+C. 'churn up' starts one.

    Example: churn serve --port 8090
    """
    if context.invoked_subcommand is not None:
        return
    from churn_platform.api import server
    from churn_platform.settings import load_settings
    from churn_platform.web_server import configure_log

    with report_errors():
        settings = load_settings()
        configure_log(settings.platform.log_format)
        server.run(settings, host=host, port=port)


@app.command("add-token")
def add_token(
    name: NameArgument,
    days: Annotated[
        int | None, typer.Option(help="Days after which it expires.", show_default="never", min=1, max=3650)
    ] = None,
) -> None:
    """Create a token and print it, once: only its hash is stored. A running API accepts it at once.

    Example: churn serve add-token crm --days 90
    """
    from churn_platform.api import tokens
    from churn_platform.api.exceptions import ApiError

    with report_errors():
        file = _tokens_file()
        known = tokens.read_tokens(file)
        if name in known:
            raise ApiError(
                f"There is a token {name!r} already, in {file}.",
                remedy="Choose another name. Once the new token is in use, remove the old one.",
            )
        now = datetime.now(UTC)
        text, token = tokens.new_token(name, created=now, expires=None if days is None else now + timedelta(days=days))
        tokens.write_tokens(file, {**known, name: token})
        output.print(text, soft_wrap=True, highlight=False)


@app.command("remove-token")
def remove_token(name: NameArgument) -> None:
    """Remove a token. A running API refuses it at once.

    Example: churn serve remove-token crm
    """
    from churn_platform.api import tokens
    from churn_platform.api.exceptions import ApiError

    with report_errors():
        file = _tokens_file()
        known = tokens.read_tokens(file)
        if name not in known:
            raise ApiError(
                f"There is no token {name!r} in {file}.", remedy=f"Choose among {', '.join(known) or 'none'}."
            )
        tokens.write_tokens(file, {each: token for each, token in known.items() if each != name})
        output.print(f"Removed {name} from {file}.")


@app.command("tokens")
def list_tokens() -> None:
    """List the tokens: name, time of creation and of expiry, UTC.

    Example: churn serve tokens
    """
    from churn_platform.api import tokens

    with report_errors():
        now = datetime.now(UTC)
        for token in tokens.read_tokens(_tokens_file()).values():
            expires = "never expires" if token.expires is None else f"expires {token.expires:%Y-%m-%d %H:%M}"
            state = expires if token.is_valid(now) else f"expired {token.expires:%Y-%m-%d %H:%M}"
            output.print(f"{token.name}  created {token.created:%Y-%m-%d %H:%M}  {state}")


def _tokens_file() -> Path:
    from churn_platform.api.exceptions import ApiError
    from churn_platform.settings import load_settings

    file = load_settings().api.tokens
    if file is None:
        raise ApiError(
            "API_TOKENS is not set, so requests need no token.",
            remedy="Set it in .env to the file that shall have the tokens, for example API_TOKENS=.local/tokens.",
        )
    return file
