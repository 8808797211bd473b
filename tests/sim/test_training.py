"""Labelled spectra for classifiers."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from protocols.errors import ConfigError
from protocols.messages.recipes import SpectrumRecipe
from sim_hardware.training import CLASSES, labelled_spectra


@pytest.mark.parametrize("training", sorted(CLASSES))
def test_balanced_reproducible_and_in_si_units(training: str, recipe: SpectrumRecipe) -> None:
    """Every class equally often, the same spectra for the same seed and others for another, in amperes."""
    bias, channels, labels, names = labelled_spectra(training, recipe, 80, 3)
    assert bias.shape == (121,)
    assert set(channels) == {"current", "lockin_x"}
    assert channels["current"].shape == channels["lockin_x"].shape == (80, 121)
    assert names == CLASSES[training]
    assert np.bincount(labels).tolist() == [20, 20, 20, 20]
    assert np.isfinite(channels["current"]).all()
    assert 1e-11 < np.abs(channels["current"]).max() <= 10e-9
    again = labelled_spectra(training, recipe, 80, 3)
    assert np.array_equal(channels["lockin_x"], again[1]["lockin_x"])
    assert not np.array_equal(labels, labelled_spectra(training, recipe, 80, 4)[2])


def test_only_vacancies_conduct_in_the_gap(recipe: SpectrumRecipe) -> None:
    """The scalar of eq. 2 tells vacancies from everything else without overlap, as on the surface."""
    bias, channels, labels, names = labelled_spectra("vacancy", recipe, 400, 1)
    low, whole = (bias >= 0) & (bias <= 0.5), (bias >= 0) & (bias <= 1.5)
    ratio = channels["lockin_x"][:, low].sum(axis=1) / channels["lockin_x"][:, whole].sum(axis=1)
    vacancy = labels == names.index("vacancy")
    assert ratio[vacancy].min() > ratio[~vacancy].max()


def test_gaps_are_ordered(recipe: SpectrumRecipe) -> None:
    """Adsorbates turn on later than the clean surface, substitutions earlier (median conductance at 0.75
    V)."""
    bias, channels, labels, names = labelled_spectra("vacancy", recipe, 400, 2)
    near = np.abs(bias - 0.75) < 0.04
    onset = {
        name: float(np.median(channels["lockin_x"][labels == i][:, near])) for i, name in enumerate(names)
    }
    assert onset["adsorbate"] < onset["pristine"] < onset["substitution"]


def test_senseless_requests_are_refused(recipe: SpectrumRecipe) -> None:
    """Unknown sets name the known ones; without a lock-in there is no lock-in channel."""
    with pytest.raises(ConfigError, match="Known: terraces, vacancy"):
        labelled_spectra("graphene", recipe, 10, 1)
    with pytest.raises(ConfigError, match="cannot be made"):
        labelled_spectra("vacancy", recipe, 0, 1)
    plain = msgspec.structs.replace(recipe, lockin=None)
    assert set(labelled_spectra("vacancy", plain, 4, 1)[1]) == {"current"}
