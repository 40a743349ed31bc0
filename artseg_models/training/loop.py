"""The training loop: Adam, a rate that drops on a plateau, a checkpoint after every epoch.

Every random choice of an epoch is drawn from the seed and the epoch's number, so that a run that was killed goes on
from its last checkpoint and ends, in fp32 on the CPU, bit for bit as an unbroken one.
"""

from __future__ import annotations

import copy
import csv
import io
import logging
import math
import os
import pickle
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from artseg_models.errors import ArtSegError
from artseg_models.files import whole_file, write_json, write_text
from artseg_models.progress import track
from artseg_models.training.configuration import Schedule

logger = logging.getLogger(__name__)

#: draws the batches of an epoch: called with its random generator, gives batches and their number
Epoch = Callable[[np.random.Generator], tuple[Iterable[Any], int]]


def train_network(
    network: nn.Module,
    *,
    epoch_batches: Epoch,
    loss_of_batch: Callable[[Any], Tensor],
    validation_loss: Callable[[], float],
    schedule: Schedule,
    seed: Sequence[int],
    folder: Path,
    name: str,
) -> None:
    """Train a network, or go on where a killed run stopped, and leave it with its best weights.

    Parameters
    ----------
    network : Module
        Trained in place; ends in evaluation mode with the weights of the lowest validation loss.
    epoch_batches : callable
        Called with a random generator, gives the batches of one epoch and how many they are.
    loss_of_batch : callable
        Gives a scalar loss for a batch, the network being in training mode.
    validation_loss : callable
        Gives the validation loss, the network being in evaluation mode.
    schedule : Schedule
        Epochs and learning rates.
    seed : sequence of int
        Seed of the run and the stage; the batches of epoch n depend on these and n alone.
    folder : Path
        Gets ``checkpoint.pt`` while training; at the end ``network.pt`` (a state dict), ``history.csv`` and
        ``time.json``: seconds of all epochs, and how many of them were spent waiting for batches.
    name : str
        What is trained, for the progress bar.

    Raises
    ------
    ArtSegError
        The loss is no longer a finite number.
    """
    finished = folder / "network.pt"
    if finished.exists():
        network.load_state_dict(torch.load(finished, weights_only=True))
        network.eval()
        return
    optimizer = torch.optim.Adam(network.parameters(), lr=schedule.learning_rate, weight_decay=schedule.weight_decay)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=schedule.factor, patience=schedule.patience)
    history: list[dict[str, float]] = []
    spent = Spent()
    best: dict[str, Tensor] = {}
    best_loss = float("inf")
    checkpoint = folder / "checkpoint.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        plateau.load_state_dict(state["plateau"])
        history, best, best_loss = state["history"], state["best"], state["best_loss"]
        spent = Spent(*state["spent"])
        logger.info("%s: goes on after epoch %d of %d", name, len(history), schedule.epochs)
    begun, resumed = time.perf_counter(), len(history)
    for epoch in range(resumed, schedule.epochs):
        started = time.perf_counter()
        network.train()
        losses: list[float] = []
        batches, count = epoch_batches(np.random.default_rng([*seed, epoch]))
        ahead = prepared_ahead(batches, spent)
        for step, batch in enumerate(track(ahead, f"{name}, epoch {epoch + 1} of {schedule.epochs}", count)):
            if schedule.decay == "one-cycle":
                rate = one_cycle_rate((epoch + step / count) / schedule.epochs, peak=schedule.learning_rate)
                optimizer.param_groups[0]["lr"] = rate
            optimizer.zero_grad(set_to_none=True)
            loss = loss_of_batch(batch)
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        network.eval()
        with torch.inference_mode():
            held_out = validation_loss()
        rate = float(optimizer.param_groups[0]["lr"])
        training_loss = float(np.mean(losses))
        if not np.isfinite(training_loss) or not np.isfinite(held_out):
            raise ArtSegError(
                f"Expected a finite loss in epoch {epoch + 1} of the {name.lower()}, got {training_loss} in training "
                f"and {held_out} in validation. Lower the learning rate; the epochs before are kept in {folder}."
            )
        if schedule.decay == "plateau":
            plateau.step(held_out)
        if held_out < best_loss:
            best_loss, best = held_out, copy.deepcopy(network.state_dict())
        spent.seconds += time.perf_counter() - started
        history.append({"epoch": epoch + 1, "learning_rate": rate, "training": training_loss, "validation": held_out})
        logger.info(
            "%s: epoch %d of %d, loss %.4f, validation %.4f, %.0f s; about %.0f min left",
            name,
            epoch + 1,
            schedule.epochs,
            training_loss,
            held_out,
            time.perf_counter() - started,
            (time.perf_counter() - begun) / (epoch + 1 - resumed) * (schedule.epochs - epoch - 1) / 60,
        )
        save_state(
            checkpoint,
            {
                "network": network.state_dict(),
                "optimizer": optimizer.state_dict(),
                "plateau": plateau.state_dict(),
                "history": history,
                "best": best,
                "best_loss": best_loss,
                "spent": [spent.seconds, spent.waiting],
            },
        )
    network.load_state_dict(best)
    table = io.StringIO()
    writer = csv.DictWriter(table, ["epoch", "learning_rate", "training", "validation"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    write_text(folder / "history.csv", table.getvalue())
    write_json(folder / "time.json", {"seconds": round(spent.seconds, 3), "waiting": round(spent.waiting, 3)})
    logger.info("%s: %.0f s, %.1f %% of them waiting for images", name, spent.seconds, 100 * spent.share_waiting)
    save_state(finished, {key: value.cpu() for key, value in network.state_dict().items()})
    checkpoint.unlink()


@dataclass
class Spent:
    """Where the time of a training went, over all its sessions.

    Attributes
    ----------
    seconds : float
        Of all epochs, validation included.
    waiting : float
        Of them, those in which the network waited for its next batch.
    """

    seconds: float = 0.0
    waiting: float = 0.0

    @property
    def share_waiting(self) -> float:
        """Waiting over all, 0..1."""
        return self.waiting / self.seconds if self.seconds else 0.0


def prepared_ahead(batches: Iterable[Any], spent: Spent) -> Iterator[Any]:
    """Pass batches on, the next one being prepared in a thread while the network works on one.

    One thread takes them in turn, so that what is drawn by chance stays the same. Waiting is added to `spent`.
    """
    coming = iter(batches)
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as pool:
        ahead = pool.submit(next, coming, None)
        while True:
            started = time.perf_counter()
            batch = ahead.result()
            spent.waiting += time.perf_counter() - started
            if batch is None:
                return
            ahead = pool.submit(next, coming, None)
            yield batch


def load_weights(network: nn.Module, folder: Path) -> None:
    """Load the weights that `train_network` left in a folder; the network ends in evaluation mode.

    Raises
    ------
    ArtSegError
        They are missing, damaged or of another network.
    """
    path = folder / "network.pt"
    if not path.is_file():
        raise ArtSegError(
            f"Expected trained weights at {path}, but there are none. Let the training end, or train again."
        )
    try:
        state = cast("dict[str, Any]", torch.load(path, map_location="cpu", weights_only=True))
        network.load_state_dict(state)
    except (OSError, RuntimeError, EOFError, TypeError, AttributeError, pickle.UnpicklingError) as error:
        raise ArtSegError(
            f"The weights at {path} are damaged or of another network than result.json states: "
            f"{str(error).splitlines()[0]} Train again."
        ) from error
    network.eval()


def save_state(path: Path, content: object) -> None:
    """Write tensors with torch, whole or not at all; the same content gives the same bytes."""
    # through memory: on a full disk torch's own writer fails with an error that names neither disk nor file
    written = io.BytesIO()
    torch.save(content, written)
    with whole_file(path) as temporary:
        temporary.write_bytes(written.getbuffer())


def one_cycle_rate(share: float, *, peak: float) -> float:
    """Learning rate after a share (0..1) of the training: up to the peak by a cosine in the first third, then down.

    Follows Smith and Topin 2019; it starts at a 25th of the peak and ends near zero.
    """
    rise = 1 / 3
    if share < rise:
        return peak * (1 + 24 * (1 - math.cos(math.pi * share / rise)) / 2) / 25
    return peak * (1 + math.cos(math.pi * (share - rise) / (1 - rise))) / 2


def hardware_name(device: str) -> str:
    """Name what a training ran on, as a model card asks for it."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"{platform.machine()} {'graphics' if device == 'mps' else 'processor'}, {os.cpu_count()} cores"
