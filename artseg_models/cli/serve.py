"""`artseg serve`: the inference service."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from artseg_models.cli.terminal import DEVICE_HELP, ENGINE_HELP, Device, Engine, app, console
from artseg_models.errors import ArtSegError


@app.command(rich_help_panel="More")
def serve(
    device: Annotated[Device, typer.Option(help=DEVICE_HELP)] = "auto",
    engine: Annotated[Engine | None, typer.Option(help=ENGINE_HELP, show_default=False)] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 for a whole lab. Other than this computer needs a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes any free one.")] = 0,
    models: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            envvar="ARTSEG_MODELS",
            help="Folder of model packages, which CellProfiler then names by their ids.",
        ),
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="File with the secret that every request must bear, in its first line.")
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="ARTSEG_SERVE_TOKEN", help="The secret itself; other users of this computer can see it: use a file."
        ),
    ] = None,
    unload_minutes: Annotated[
        float,
        typer.Option(
            min=0,
            envvar="ARTSEG_UNLOAD_MINUTES",
            help="Free the memory of the models after so many minutes without an image; 0 means never.",
        ),
    ] = 5.0,
    idle_minutes: Annotated[
        float | None,
        typer.Option(
            min=0,
            envvar="ARTSEG_IDLE_MINUTES",
            help="End after so many minutes without an image; 0 means never. Default: 15, and never with a token.",
            show_default=False,
        ),
    ] = None,
    end_with: Annotated[
        int | None, typer.Option(metavar="PID", help="End when this process ends: for batch jobs and containers.")
    ] = None,
    cpu_fallback: Annotated[
        bool,
        typer.Option(help="Let the processor take images for which the graphics memory does not suffice, if asked to."),
    ] = True,
    request_minutes: Annotated[
        float, typer.Option(min=0.01, help="Longest time in the queue, and longest time of the network, for an image.")
    ] = 30.0,
    status: Annotated[
        bool, typer.Option("--status", help="Show the running service: models, memory, queue; start none.")
    ] = False,
    stop: Annotated[bool, typer.Option("--stop", help="End the running service.")] = False,
    remember: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Note the token (--token-file, or asked for) of a server, for CellProfiler on this computer.",
        ),
    ] = None,
) -> None:
    """Serve models to CellProfiler on this computer, or to a lab.

    On this computer the module SegmentArtifacts starts it by itself. For a lab:

    `artseg serve --host 0.0.0.0 --port 8300 --token-file FILE --models DIR`

    The connection is not encrypted: put a reverse proxy with TLS before it, or let others in through SSH. Name the same
    --device and --port for --status and --stop.
    """
    from artseg_models.service import server

    if status:
        found = server.status(device=device, port=port)
        if found is None:
            console.print("No service runs.")
            raise typer.Exit(1)
        console.print_json(data=found)
    elif stop:
        console.print("The service has ended." if server.stop(device=device, port=port) else "No service runs.")
    elif remember is not None:
        from artseg_models.service.tokens import remember_token

        secret = _token(token_file, token) or typer.prompt("Token", hide_input=True)
        console.print(f"Noted in {remember_token(remember, secret)}", highlight=False, soft_wrap=True)
    else:
        from artseg_models.service.log import log_to

        secret = _token(token_file, token)
        log_to(sys.stderr)
        try:
            server.serve(
                server.ServeOptions(
                    device=device,
                    engine=engine,
                    host=host,
                    port=port,
                    token=secret,
                    models=models,
                    unload_minutes=unload_minutes,
                    idle_minutes=(15.0 if secret is None else 0.0) if idle_minutes is None else idle_minutes,
                    end_with=end_with,
                    cpu_fallback=cpu_fallback,
                    request_minutes=request_minutes,
                )
            )
        except server.AlreadyRunningError as error:
            Console(stderr=True).print(str(error), highlight=False)
            raise typer.Exit(server.ALREADY_RUNNING) from error


def _token(file: Path | None, token: str | None) -> str | None:
    """Give the token that was named, if any."""
    if file is None:
        return token
    if token is not None:
        raise typer.BadParameter("give --token-file or --token, not both")
    try:
        lines = file.read_text(encoding="utf-8").split()
    except (OSError, ValueError) as error:
        raise ArtSegError(f"Could not read the token in {file}: {error}.") from error
    if not lines:
        raise ArtSegError(f"Expected a token in the first line of {file}, but it is empty.")
    return lines[0]
