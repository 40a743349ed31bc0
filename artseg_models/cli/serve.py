"""`artseg serve`: the inference service."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from artseg_models.cli.terminal import DEVICE_HELP, Device, app, console


@app.command(rich_help_panel="More")
def serve(
    device: Annotated[Device, typer.Option(help=DEVICE_HELP)] = "auto",
    idle_minutes: Annotated[
        float, typer.Option(min=0, help="End after so many minutes without a request; 0 means never.")
    ] = 10.0,
    status: Annotated[bool, typer.Option("--status", help="Tell whether a service runs; start none.")] = False,
    stop: Annotated[bool, typer.Option("--stop", help="End the running service.")] = False,
) -> None:
    """Serve models to CellProfiler on this computer; the module SegmentArtifacts starts this by itself."""
    from artseg_models.service import server

    if status:
        found = server.status(device=device)
        if found is None:
            console.print("No service runs.")
            raise typer.Exit(1)
        console.print_json(data=found)
    elif stop:
        console.print("The service has ended." if server.stop(device=device) else "No service runs.")
    else:
        try:
            server.serve(device=device, idle_minutes=idle_minutes)
        except server.AlreadyRunningError as error:
            Console(stderr=True).print(str(error), highlight=False)
            raise typer.Exit(server.ALREADY_RUNNING) from error
