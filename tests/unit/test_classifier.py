"""The classifier: right on what it learnt, and honest about everything else."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from actors.spectrum_classifier.classifier import (
    NOT_TRAINED,
    UNCERTAIN,
    UNLIKE,
    SpectrumClassifier,
    UntrainedClassifier,
)
from actors.spectrum_classifier.preparation import NETWORK_POINTS, network_axis, prepare
from actors.spectrum_classifier.training import TrainingSettings, classifier_for, train
from protocols.errors import ConfigError, DataFormatError, UsageError
from protocols.messages.campaign import ClassifierSection
from protocols.messages.data import Channel, SweepData
from protocols.messages.recipes import SpectrumRecipe

Floats = npt.NDArray[np.float64]
NAMES = ("gap", "state", "metal")
BIAS = np.linspace(-1.0, 1.0, 100)
RECIPE = SpectrumRecipe(
    stabilise_bias_v=1.0,
    stabilise_current_a=1e-10,
    settle_s=0.1,
    z_offset_m=0.0,
    start_v=-1.0,
    stop_v=1.0,
    points=100,
    dwell_s=5e-3,
)
QUICK = TrainingSettings(count=360, epochs=20, batch=32)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Tests share two cores: torch gets one."""
    torch.set_num_threads(1)


def shape(kind: str, bias: Floats, rng: np.random.Generator) -> Floats:
    """dI/dV of one kind with a random gain, onset and noise (A)."""
    onset = 0.35 + 0.03 * rng.normal()
    curve = np.maximum(np.abs(bias) - onset, 0.0)
    if kind == "state":
        curve = curve + 0.4 * np.exp(-(((bias - 0.12) / 0.06) ** 2))
    elif kind == "metal":
        curve = 0.5 + 0.2 * bias**2 + 0.03 * rng.normal() * bias
    elif kind == "staircase":
        curve = 0.3 * np.floor(4 * (bias + 1.0)) % 1.0 + 0.5 * np.sin(9 * bias)
    noisy: Floats = 1e-11 * rng.uniform(0.5, 2.0) * (curve + 0.02 * rng.normal(size=bias.size))
    return noisy


def labelled(
    training: str, recipe: SpectrumRecipe, count: int, seed: int, /
) -> tuple[Floats, dict[str, Floats], npt.NDArray[np.int64], tuple[str, ...]]:
    """A source of training spectra as the entry point gives it."""
    if training != "made up":
        raise ConfigError(f"there is no training set {training!r}.")
    rng = np.random.default_rng(seed)
    bias = np.linspace(recipe.start_v, recipe.stop_v, recipe.points)
    labels = rng.permutation(np.arange(count) % len(NAMES)).astype(np.int64)
    spectra = np.stack([shape(NAMES[k], bias, rng) for k in labels])
    return bias, {"lockin_x": spectra}, labels, NAMES


@pytest.fixture(scope="module")
def trained() -> SpectrumClassifier:
    """One classifier for all tests."""
    torch.set_num_threads(1)
    bias, spectra, labels, names = labelled("made up", RECIPE, 360, 0)
    return train(bias, spectra, labels, names, 0, QUICK, "made up")


def sweep(values: Floats, bias: Floats = BIAS, channel: str = "lockin_x") -> SweepData:
    """One sweep, forward and backward, two repeats."""
    block = np.broadcast_to(values, (2, 2, values.size)).copy()
    block[:, 1] = 0.0  # the way back must not be looked at
    return SweepData(
        bias_v=bias,
        channels=(Channel(name=channel, unit="A", values=block),),
        x_m=0.0,
        y_m=0.0,
        z_m=0.0,
        time_s=0.0,
    )


def test_unseen_spectra_of_known_kinds_are_named(trained: SpectrumClassifier) -> None:
    """At least 97 of 100 new spectra get their right name, whatever their gain."""
    bias, spectra, labels, names = labelled("made up", RECIPE, 300, 99)
    found = trained.classify_many(bias, spectra)
    right = [c.label == names[k] for c, k in zip(found, labels, strict=True)]
    assert np.mean(right) >= 0.97
    assert all(abs(sum(c.probabilities.values()) - 1.0) < 1e-6 for c in found)
    assert trained.description.test_accuracy >= 0.95
    assert trained.description.temperature >= 1.0


def test_an_unseen_kind_is_called_unlike_the_training_spectra(trained: SpectrumClassifier) -> None:
    """A shape that was never learnt is not forced into a class."""
    rng = np.random.default_rng(5)
    for _ in range(20):
        found = trained.classify(sweep(shape("staircase", BIAS, rng)))
        assert found.label == UNLIKE
        assert found.novelty > 1.0
        assert "nearest" in found.note


def test_below_the_confidence_threshold_it_is_uncertain(trained: SpectrumClassifier) -> None:
    """With a threshold that nothing reaches, a known kind is uncertain and the most likely class is said."""
    rng = np.random.default_rng(6)
    data = sweep(shape("metal", BIAS, rng))
    assert trained.classify(data).label == "metal"
    before = trained.confidence
    trained.confidence = 1.1
    try:
        found = trained.classify(data)
    finally:
        trained.confidence = before
    assert found.label == UNCERTAIN
    assert "metal" in found.note


def test_a_finer_wider_or_falling_axis_is_resampled(trained: SpectrumClassifier) -> None:
    """A sweep that covers the trained range is classified whatever its sampling and direction."""
    wide = np.linspace(1.5, -1.5, 301)
    for seed in range(5):
        assert (
            trained.classify(sweep(shape("state", wide, np.random.default_rng(seed)), wide)).label == "state"
        )


@pytest.mark.parametrize(
    ("bias", "channel", "said"),
    [
        (np.linspace(-0.22, 0.22, 200), "lockin_x", "covers -0.22 to 0.22 V"),
        (np.linspace(-1.0, 1.0, 30), "lockin_x", "steps"),
        (BIAS, "current", "trained on lockin_x"),
    ],
)
def test_what_it_was_not_trained_for_is_said(
    trained: SpectrumClassifier, bias: Floats, channel: str, said: str
) -> None:
    """Another bias range, coarser steps or another channel: not trained for this, with the reason."""
    found = trained.classify(sweep(shape("gap", bias, np.random.default_rng(0)), bias, channel))
    assert found.label == NOT_TRAINED
    assert said in found.note
    assert found.probabilities == {}
    assert found.record("run/d0001/a1").note == found.note


def test_missing_samples_are_not_classified(trained: SpectrumClassifier) -> None:
    """A sweep that ended early is not classified."""
    values = shape("gap", BIAS, np.random.default_rng(0))
    values[70:] = np.nan
    assert trained.classify(sweep(values)).label == NOT_TRAINED


def test_an_untrained_classifier_says_so_with_the_reason() -> None:
    """No training set, an unknown one, or no source: each answers every spectrum with its reason."""
    data = sweep(shape("gap", BIAS, np.random.default_rng(0)))
    none = classifier_for(ClassifierSection(), RECIPE, 0, labelled)
    unknown = classifier_for(ClassifierSection(training="graphene"), RECIPE, 0, labelled)
    for classifier, said in ((none, "names no training"), (unknown, "no training set 'graphene'")):
        assert isinstance(classifier, UntrainedClassifier)
        found = classifier.classify(data)
        assert (found.label, found.confidence) == (NOT_TRAINED, 0.0)
        assert said in found.note


def test_a_campaign_gets_its_classifier_from_the_source() -> None:
    """The training set's name and the campaign's confidence end up in the classifier."""
    small = TrainingSettings(count=90, epochs=2)
    found = classifier_for(ClassifierSection(training="made up", confidence=0.6), RECIPE, 3, labelled, small)
    assert isinstance(found, SpectrumClassifier)
    assert (found.description.training, found.confidence) == ("made up", 0.6)


def test_a_saved_classifier_is_the_same_when_loaded(trained: SpectrumClassifier, tmp_path: Path) -> None:
    """Model id and every answer survive the file; a damaged file is refused."""
    path = tmp_path / "classifier.npz"
    trained.save(path)
    loaded = SpectrumClassifier.load(path)
    assert loaded.model_id == trained.model_id
    bias, spectra, _, _ = labelled("made up", RECIPE, 30, 7)
    assert loaded.classify_many(bias, spectra) == trained.classify_many(bias, spectra)
    for damaged in (path.read_bytes()[: path.stat().st_size // 2], b"", b"no classifier"):
        path.write_bytes(damaged)
        with pytest.raises(DataFormatError, match="no classifier"):
            SpectrumClassifier.load(path)


def test_the_same_seed_gives_the_same_model() -> None:
    """Training is a function of spectra and seed, and leaves torch's own random state alone."""
    bias, spectra, labels, names = labelled("made up", RECIPE, 60, 0)
    settings = TrainingSettings(epochs=1)
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    a = train(bias, spectra, labels, names, 4, settings)
    assert torch.equal(torch.random.get_rng_state(), state)
    b = train(bias, spectra, labels, names, 4, settings)
    c = train(bias, spectra, labels, names, 5, settings)
    assert a.model_id == b.model_id != c.model_id


def test_normalisation_forgets_gain_and_offset() -> None:
    """Prepared spectra have mean 0 and scatter 1, whatever gain and offset they had."""
    axis = network_axis(BIAS)
    spectra = np.stack([BIAS**2, 5e-12 * BIAS**2 + 3e-12, np.zeros(100)])
    x = prepare(BIAS, {"current": spectra}, ("current",), axis)
    assert x.shape == (3, 1, NETWORK_POINTS)
    assert np.allclose(x[0], x[1], atol=1e-4)
    assert np.allclose(x[:2].mean(axis=2), 0.0, atol=1e-5)
    assert np.array_equal(x[2], np.zeros((1, NETWORK_POINTS)))
    assert (axis[0], axis[-1]) == (-1.0, 1.0)


@pytest.mark.parametrize("what", ["one class", "few", "shape", "nan", "label", "axis"])
def test_training_refuses_what_it_cannot_learn_from(what: str) -> None:
    """Too few classes or spectra, wrong shapes, missing samples, unknown labels, a folded axis."""
    bias, spectra, labels, names = labelled("made up", RECIPE, 60, 0)
    if what == "one class":
        names = ("gap",)
    elif what == "few":
        labels[labels == 2] = 1
    elif what == "shape":
        spectra["lockin_x"] = spectra["lockin_x"][:, :50]
    elif what == "nan":
        spectra["lockin_x"][3, 4] = np.nan
    elif what == "label":
        labels[0] = 7
    else:
        bias = np.abs(bias)
    with pytest.raises(UsageError):
        train(bias, spectra, labels, names, 0, TrainingSettings(epochs=1))
