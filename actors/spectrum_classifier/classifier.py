"""What a spectrum is: a class with its probability, uncertain, unlike what was learnt, or not trained for.

Probabilities are calibrated by a temperature (Guo et al., arXiv:1706.04599) fitted on spectra held back.  A
model is saved as plain arrays; its id is the hash of weights and training description, so that a label names
exactly what said it.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import torch

from actors.spectrum_classifier.network import SpectrumNetwork
from actors.spectrum_classifier.novelty import NearestClass, NoveltyModel
from actors.spectrum_classifier.preparation import UnfitError, check_fit, forward_spectrum, prepare
from protocols.errors import DataFormatError
from protocols.messages.data import SweepData
from protocols.messages.records import Label

FloatArray = npt.NDArray[np.float64]

UNCERTAIN = "uncertain"
UNLIKE = "unlike the training spectra"
NOT_TRAINED = "not trained for this"
_FORMAT = 1
_UNREADABLE = (
    OSError,
    ValueError,
    KeyError,
    EOFError,
    RuntimeError,
    zipfile.BadZipFile,
    msgspec.ValidationError,
)
"""What numpy, torch and msgspec raise on a damaged file."""


class TrainingDescription(msgspec.Struct, frozen=True, kw_only=True):
    """What a model was trained on, and how well it did on spectra it had never seen."""

    training: str
    """Name of the training set."""
    class_names: tuple[str, ...]
    channels: tuple[str, ...]
    bias_low_v: float
    bias_high_v: float
    step_v: float
    spectra: int
    seed: int
    epochs: int
    temperature: float
    validation_accuracy: float
    test_accuracy: float


class Classification(msgspec.Struct, frozen=True, kw_only=True):
    """Answer to one spectrum."""

    label: str
    """A class name, or UNCERTAIN, UNLIKE, NOT_TRAINED."""
    confidence: float
    """Probability of the most likely class; 0 where there is none."""
    probabilities: dict[str, float]
    novelty: float
    """Above 1: unlike the training spectra."""
    model: str
    note: str

    def record(self, job_id: str) -> Label:
        """The journal's record."""
        return Label(
            job_id=job_id,
            label=self.label,
            confidence=self.confidence,
            probabilities=self.probabilities,
            model=self.model,
            note=self.note,
        )


class UntrainedClassifier:
    """Answers every spectrum with the reason why it cannot be classified."""

    model_id = ""

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def classify(self, data: SweepData) -> Classification:
        """Always NOT_TRAINED."""
        return _not_trained(self.reason, self.model_id)


class SpectrumClassifier:
    """A trained network with its calibration.

    Args:
        network: Trained; it is used in evaluation only.
        axis: The trained bias axis (V), ascending.
        novelty: Fitted on the same spectra.
        description: What it was trained on.
        confidence: Least probability of the most likely class that is not "uncertain".
    """

    def __init__(
        self,
        network: SpectrumNetwork,
        axis: FloatArray,
        novelty: NoveltyModel,
        description: TrainingDescription,
        confidence: float = 0.8,
    ) -> None:
        self._network = network.eval()
        self._axis = axis
        self._novelty = novelty
        self.description = description
        self.confidence = confidence
        self.model_id = self._hash()

    def classify(self, data: SweepData) -> Classification:
        """Classify the forward trace of one sweep."""
        bias, spectrum = forward_spectrum(data)
        try:
            check_fit(bias, spectrum, self.description.channels, self._axis, self.description.step_v)
        except UnfitError as unfit:
            return _not_trained(unfit.text, self.model_id)
        rows = {name: spectrum[name][None] for name in self.description.channels}
        return self.classify_many(bias, rows)[0]

    def classify_many(
        self, bias_v: npt.ArrayLike, spectra: Mapping[str, npt.NDArray[np.generic]]
    ) -> list[Classification]:
        """Classify spectra on one axis that fits: channel name -> (n, points)."""
        prepared = prepare(bias_v, spectra, self.description.channels, self._axis)
        logits, features = self._network.judge(torch.from_numpy(prepared))
        chances = torch.softmax(logits.double() / self.description.temperature, dim=1).numpy()
        scores = self._novelty.score(features.numpy(), prepared)
        return [self._answer(p, float(s)) for p, s in zip(chances, scores, strict=True)]

    def _answer(self, chances: FloatArray, novelty: float) -> Classification:
        names = self.description.class_names
        best = int(np.argmax(chances))
        top = float(chances[best])
        label, note = names[best], ""
        if novelty > 1.0:
            label = UNLIKE
            note = f"{novelty:.2g} times as far from the training spectra as they are; nearest: {names[best]}"
        elif top < self.confidence:
            label = UNCERTAIN
            note = f"most likely {names[best]} with {top:.2f}, below {self.confidence:.2f}"
        return Classification(
            label=label,
            confidence=top,
            probabilities={name: float(p) for name, p in zip(names, chances, strict=True)},
            novelty=novelty,
            model=self.model_id,
            note=note,
        )

    def save(self, path: Path) -> None:
        """Write one .npz of plain arrays and a JSON description; nothing is pickled."""
        head = {"format": _FORMAT, "confidence": self.confidence}
        description = {**head, "description": msgspec.to_builtins(self.description)}
        with path.open("wb") as f:
            np.savez(
                f,
                allow_pickle=False,
                description=np.frombuffer(json.dumps(description).encode(), dtype=np.uint8),
                **{f"array.{name}": values for name, values in self._arrays().items()},
            )

    @classmethod
    def load(cls, path: Path) -> SpectrumClassifier:
        """Read what ``save`` wrote.

        Raises:
            DataFormatError: the file is not a classifier of ours, or damaged.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                head = json.loads(bytes(file["description"]).decode())
                arrays = {name[6:]: file[name] for name in file.files if name.startswith("array.")}
            if head["format"] != _FORMAT:
                raise ValueError(f"format {head['format']}, expected {_FORMAT}")
            description = msgspec.convert(head["description"], TrainingDescription)
            nearest = [
                NearestClass(**{part: arrays[f"{of}.{part}"] for part in NearestClass.__struct_fields__})
                for of in ("features", "shapes")
            ]
            novelty = NoveltyModel(features=nearest[0], shapes=nearest[1], thresholds=arrays["thresholds"])
            axis = arrays["axis"]
            network = SpectrumNetwork(len(description.channels), axis.size, len(description.class_names))
            weights = {k[8:]: torch.from_numpy(v) for k, v in arrays.items() if k.startswith("network.")}
            network.load_state_dict(weights)
        except _UNREADABLE as broken:
            raise DataFormatError(
                f"{path} is no classifier that can be read: {broken}.", "Train it again."
            ) from broken
        return cls(network, axis, novelty, description, float(head["confidence"]))

    def _arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        arrays: dict[str, npt.NDArray[np.generic]] = {"axis": self._axis}
        for name, tensor in self._network.state_dict().items():
            arrays[f"network.{name}"] = tensor.detach().cpu().numpy()
        novelty = self._novelty
        for of, nearest in (("features", novelty.features), ("shapes", novelty.shapes)):
            for part in NearestClass.__struct_fields__:
                arrays[f"{of}.{part}"] = getattr(nearest, part)
        arrays["thresholds"] = novelty.thresholds
        return arrays

    def _hash(self) -> str:
        """First 16 hexadecimal digits of the hash of weights and description."""
        digest = hashlib.sha256(msgspec.json.encode(self.description, order="deterministic"))
        for name, values in sorted(self._arrays().items()):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()[:16]


Classifier = SpectrumClassifier | UntrainedClassifier


def _not_trained(reason: str, model: str) -> Classification:
    return Classification(
        label=NOT_TRAINED, confidence=0.0, probabilities={}, novelty=0.0, model=model, note=reason
    )
