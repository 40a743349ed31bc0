"""Where the service of this user, host and device announces itself.

The same folder and file names stand in `artseg_models/service/rendezvous.py`, which this cannot import.
"""

import json
import os
import re
import socket
import sys


def state_folder():
    """Per-user folder of rendezvous files, locks and logs."""
    override = os.environ.get("ARTSEG_STATE_DIR")
    if override:
        return os.path.abspath(override)
    home = os.path.expanduser("~")
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA") or os.path.join(home, "AppData", "Local")
        return os.path.join(local, "artseg")
    if sys.platform == "darwin":
        return os.path.join(home, "Library", "Application Support", "artseg")
    state = os.environ.get("XDG_STATE_HOME") or os.path.join(home, ".local", "state")
    return os.path.join(state, "artseg")


def rendezvous_path(device):
    host = re.sub(r"[^A-Za-z0-9.-]", "_", socket.gethostname()) or "host"
    return os.path.join(state_folder(), f"service-{host}-{device}.json")


def log_path(device):
    return os.path.splitext(rendezvous_path(device))[0] + ".log"


def read_rendezvous(device):
    """Read port, token and process of the service; None where there is none or the file is no rendezvous."""
    try:
        with open(rendezvous_path(device), encoding="utf-8") as opened:
            place = json.load(opened)
        return place if {"port", "token", "pid", "protocol"} <= set(place) else None
    except (OSError, ValueError, TypeError):
        return None
