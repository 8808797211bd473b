"""The tunneling current: exponential in the distance, times the energy integral of the local density of
states.

Tersoff-Hamann with a metallic tip of constant density of states::

    I(V) = sign(V) G0 exp(-2 kappa d) |integral_0^V rho(E) dE|,    kappa = sqrt(2 m phi) / hbar

``rho`` is relative (about 1 far outside a gap), E in volts from the Fermi level, positive bias probes empty
states of the sample.  ``G0`` is the conductance quantum, so that d = 0 is point contact.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import constants

Floats = npt.NDArray[np.float64]

CONTACT_CONDUCTANCE_S = float(constants.physical_constants["conductance quantum"][0])
"""2 e^2 / h = 77.5 uS, reached at d = 0."""


def decay_constant(work_function_ev: float) -> float:
    """kappa (1/m) for an effective work function in eV: 10.2 / nm at 4 eV."""
    joule = work_function_ev * constants.e
    return float(np.sqrt(2.0 * constants.m_e * joule) / constants.hbar)


def current(
    gap_m: float | Floats, integral_v: float | Floats, kappa: float, rail_a: float = np.inf
) -> Floats:
    """Current (A) through a gap of ``gap_m`` for a signed LDOS integral ``integral_v`` (V), limited to the
    rail."""
    ideal = CONTACT_CONDUCTANCE_S * np.exp(-2.0 * kappa * np.asarray(gap_m)) * np.asarray(integral_v)
    return np.asarray(np.clip(ideal, -rail_a, rail_a))


def equilibrium_gap(integral_v: float | Floats, setpoint_a: float, kappa: float) -> Floats:
    """The gap (m) at which |I| equals the setpoint; negative means contact before the setpoint is reached."""
    with np.errstate(divide="ignore"):
        return np.log(CONTACT_CONDUCTANCE_S * np.abs(integral_v) / setpoint_a) / (2.0 * kappa)
