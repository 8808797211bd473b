"""Training the classifier from labelled spectra, seeded, in seconds on one core.

Spectra are split 80/12/8 into training, validation (choice of the epoch, temperature, thresholds of novelty)
and test, as in gpSTS.  Where the spectra come from is not decided here: a campaign names a training set, and
the entry point group "tunnelpilot.training_data" knows functions that make it.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from typing import Protocol

import msgspec
import numpy as np
import numpy.typing as npt
import scipy.optimize
import torch

from actors.spectrum_classifier.classifier import (
    Classifier,
    SpectrumClassifier,
    TrainingDescription,
    UntrainedClassifier,
)
from actors.spectrum_classifier.network import SpectrumNetwork
from actors.spectrum_classifier.novelty import fit_novelty
from actors.spectrum_classifier.preparation import NETWORK_POINTS, network_axis, prepare
from protocols.errors import TunnelpilotError, UsageError
from protocols.messages.campaign import ClassifierSection
from protocols.messages.recipes import SpectrumRecipe

FloatArray = npt.NDArray[np.float64]
ENTRY_POINTS = "tunnelpilot.training_data"
FEWEST_PER_CLASS = 8
GOOD_ENOUGH = 0.01
"""Validation loss at which training ends: every spectrum held back is right with a probability near 1."""


class TrainingSource(Protocol):
    """Makes labelled spectra: bias_v (points,), channel -> (count, points), labels (count,), class names."""

    def __call__(
        self, training: str, recipe: SpectrumRecipe, count: int, seed: int, /
    ) -> tuple[FloatArray, dict[str, FloatArray], npt.NDArray[np.int64], tuple[str, ...]]:
        """``count`` spectra of the set ``training``, taken with ``recipe``."""


class TrainingSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How a network is trained."""

    count: int = 1500
    """Spectra asked of the source."""
    epochs: int = 12
    batch: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    noise: float = 0.05
    """White noise added to the standardised training spectra, anew every time."""
    confidence: float = 0.8
    patience: int = 4
    """Epochs without a better validation loss before training ends."""


def classifier_for(
    section: ClassifierSection,
    recipe: SpectrumRecipe,
    seed: int,
    source: TrainingSource | None = None,
    settings: TrainingSettings | None = None,
) -> Classifier:
    """The classifier a campaign asks for; one that says why not, where it cannot be trained.

    Args:
        section: Which training set and confidence.
        recipe: How the campaign's spectra are taken.
        seed: Of spectra, split, weights and noise.
        source: Where labelled spectra come from; None: the entry points of this installation.
        settings: How to train; the section's confidence replaces theirs.
    """
    if not section.training:
        return UntrainedClassifier("this campaign names no training spectra (classifier.training).")
    found = source if source is not None else find_source()
    if found is None:
        return UntrainedClassifier(f"nothing is installed that makes training spectra ({ENTRY_POINTS}).")
    used = settings if settings is not None else TrainingSettings()
    used = msgspec.structs.replace(used, confidence=section.confidence)
    try:
        bias, spectra, labels, names = found(section.training, recipe, used.count, seed)
        return train(bias, spectra, labels, names, seed, used, section.training)
    except TunnelpilotError as refused:
        return UntrainedClassifier(f"no training with {section.training!r}: {refused.text}")


def find_source() -> TrainingSource | None:
    """The first entry point of the group, by name; None if there is none."""
    for entry in sorted(metadata.entry_points(group=ENTRY_POINTS), key=lambda e: e.name):
        source: TrainingSource = entry.load()
        return source
    return None


def train(
    bias_v: npt.ArrayLike,
    spectra: Mapping[str, npt.NDArray[np.generic]],
    labels: npt.ArrayLike,
    class_names: tuple[str, ...],
    seed: int,
    settings: TrainingSettings | None = None,
    training: str = "",
) -> SpectrumClassifier:
    """Train on labelled spectra.

    Args:
        bias_v: (points,), V.
        spectra: Channel name -> (n, points), any unit; channels that are not finite are refused.
        labels: (n,) indices into ``class_names``.
        class_names: At least two.
        seed: Same seed and spectra, same model on one machine.
        settings: How to train.
        training: Name of the set, for the description.

    Raises:
        UsageError: fewer than two classes, too few spectra of one, shapes that do not fit, missing samples.
    """
    settings = settings if settings is not None else TrainingSettings()
    y = np.asarray(labels, dtype=np.int64)
    axis = network_axis(bias_v)
    channels = tuple(sorted(spectra))
    _check(bias_v, spectra, y, class_names)
    x = prepare(bias_v, spectra, channels, axis)
    parts = _split(y, np.random.default_rng(seed))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = SpectrumNetwork(len(channels), NETWORK_POINTS, len(class_names))
        epochs = _fit(network, x, y, parts, settings)
    logits, features = network.judge(torch.from_numpy(x))
    scores, inside = logits.double().numpy(), features.double().numpy()
    known, held, unseen = parts
    description = TrainingDescription(
        training=training,
        class_names=tuple(class_names),
        channels=channels,
        bias_low_v=float(axis[0]),
        bias_high_v=float(axis[-1]),
        step_v=float(np.max(np.abs(np.diff(np.asarray(bias_v, dtype=np.float64))))),
        spectra=int(y.size),
        seed=seed,
        epochs=epochs,
        temperature=_temperature(scores[held], y[held]),
        validation_accuracy=float(np.mean(scores[held].argmax(axis=1) == y[held])),
        test_accuracy=float(np.mean(scores[unseen].argmax(axis=1) == y[unseen])),
    )
    novelty = fit_novelty(inside[known], x[known], y[known], inside[held], x[held])
    return SpectrumClassifier(network, axis, novelty, description, settings.confidence)


def _check(
    bias_v: npt.ArrayLike,
    spectra: Mapping[str, npt.NDArray[np.generic]],
    labels: npt.NDArray[np.int64],
    class_names: tuple[str, ...],
) -> None:
    if len(class_names) < 2 or len(set(class_names)) != len(class_names):
        raise UsageError(f"training needs at least two different classes, got {class_names}.")
    if not spectra:
        raise UsageError("training needs at least one channel.")
    for name, values in spectra.items():
        expected = (labels.size, np.size(bias_v))
        if np.shape(values) != expected:
            raise UsageError(f"training spectra of {name} have shape {np.shape(values)}, not {expected}.")
        if not np.isfinite(np.asarray(values, dtype=np.float64)).all():
            raise UsageError(f"training spectra of {name} have missing samples.")
    if labels.size and not (labels.min() >= 0 and labels.max() < len(class_names)):
        raise UsageError(f"labels lie outside the {len(class_names)} classes.")
    counts = np.bincount(labels, minlength=len(class_names))
    if counts.min() < FEWEST_PER_CLASS:
        poor = class_names[int(counts.argmin())]
        raise UsageError(f"{counts.min()} training spectra of {poor!r}; at least {FEWEST_PER_CLASS} needed.")


Parts = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]


def _split(labels: npt.NDArray[np.int64], rng: np.random.Generator) -> Parts:
    """Indices of training, validation and test: 80/12/8 within each class, at least one each."""
    groups: tuple[list[int], list[int], list[int]] = ([], [], [])
    for c in np.unique(labels):
        mine = rng.permutation(np.flatnonzero(labels == c))
        held, unseen = max(1, round(0.12 * mine.size)), max(1, round(0.08 * mine.size))
        groups[1].extend(mine[:held].tolist())
        groups[2].extend(mine[held : held + unseen].tolist())
        groups[0].extend(mine[held + unseen :].tolist())
    known, validation, test = (np.array(sorted(g), dtype=np.int64) for g in groups)
    return known, validation, test


def _fit(
    network: SpectrumNetwork,
    x: npt.NDArray[np.float32],
    y: npt.NDArray[np.int64],
    parts: Parts,
    settings: TrainingSettings,
) -> int:
    """Adam on cross entropy, classes weighted by rarity; keeps the epoch of least validation loss."""
    known, held, _ = parts
    inputs, targets = torch.from_numpy(x[known]), torch.from_numpy(y[known])
    held_x, held_y = torch.from_numpy(x[held]), torch.from_numpy(y[held])
    counts = torch.bincount(targets, minlength=int(y.max()) + 1).float()
    loss_of = torch.nn.CrossEntropyLoss(weight=counts.sum() / (len(counts) * counts))
    optimiser = torch.optim.Adam(
        network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    best, best_state, since = float("inf"), {}, 0
    done = 0
    for done in range(1, settings.epochs + 1):  # noqa: B007  (how many were needed is the answer)
        network.train()
        order = torch.randperm(len(targets))
        for start in range(0, len(order), settings.batch):
            chosen = order[start : start + settings.batch]
            if len(chosen) < 2:
                continue  # batch normalisation needs company
            seen = inputs[chosen]
            optimiser.zero_grad()
            loss = loss_of(network(seen + settings.noise * torch.randn_like(seen)), targets[chosen])
            loss.backward()
            optimiser.step()
        validation = float(loss_of(network.judge(held_x)[0], held_y))
        since += 1
        if validation < best - 1e-4:
            best, since = validation, 0
            best_state = {name: value.clone() for name, value in network.state_dict().items()}
        if since >= settings.patience or best < GOOD_ENOUGH:
            break
    if best_state:
        network.load_state_dict(best_state)
    network.eval()
    return done


def _temperature(logits: FloatArray, labels: npt.NDArray[np.int64]) -> float:
    """Temperature of least negative log likelihood; never below 1: held-back spectra are few."""

    def loss(temperature: float) -> float:
        scaled = logits / temperature
        top = scaled.max(axis=1, keepdims=True)
        total = np.log(np.exp(scaled - top).sum(axis=1)) + top[:, 0]
        return float(np.mean(total - scaled[np.arange(labels.size), labels]))

    found = scipy.optimize.minimize_scalar(loss, bounds=(1.0, 10.0), method="bounded")
    return float(found.x)
