"""What is shown of each sample: where, at which biases, and which of its defects get a spectrum."""

from __future__ import annotations

from dataclasses import dataclass

from sim_hardware.gallery.frames import LockInView
from sim_hardware.surfaces.base import Surface, SurfaceObject

NM, PA, MV = 1e-9, 1e-12, 1e-3


@dataclass(frozen=True)
class Spot:
    """A place with a spectrum: ``form`` (or kind) of the object on it, "" where nothing is; its name in the
    picture."""

    form: str
    label: str


@dataclass(frozen=True)
class Show:
    """One sample's picture; lengths in m, biases in V, currents in A."""

    title: str
    seed: int
    wide_m: float
    """Edge of the survey frame."""
    zoom_m: float
    """Edge of the frame about the first object of ``about``."""
    about: str
    bias_v: float
    setpoint_a: float
    zoom_bias_v: float
    zoom_setpoint_a: float
    lockin: LockInView
    maps_v: tuple[float, float, float]
    sweep_v: tuple[float, float]
    spots: tuple[Spot, ...]
    temperature: str = ""
    distorted: str = "zoom"
    """Which of the two frames is shown distorted."""
    maps: str = "zoom"
    """Which of the two frames is mapped."""
    lit: bool = False
    """Whether the survey is shown as if lit from the upper left: steps hide what lies on terraces."""
    apart_m: float = 0.7 * NM
    """Distance of the second apex of the double tip."""


SHOWS: dict[str, Show] = {
    "ws2": Show(
        title="WS$_2$ monolayer on graphene",
        seed=3,
        wide_m=24 * NM,
        zoom_m=5 * NM,
        about="vacancy",
        bias_v=1.2,
        setpoint_a=60 * PA,
        zoom_bias_v=-1.7,
        zoom_setpoint_a=150 * PA,
        lockin=LockInView(1.2, 150 * PA, 12 * MV),
        maps_v=(0.53, 0.74, 1.05),
        sweep_v=(-2.0, 1.5),
        spots=(
            Spot("", "pristine"),
            Spot("vacancy", "S vacancy"),
            Spot("lower vacancy", "S vacancy, lower layer"),
            Spot("oxygen", "O at S site"),
            Spot("dopant", "Cr at W site"),
        ),
        temperature="4.5 K",
    ),
    "wse2": Show(
        title="WSe$_2$ monolayer on graphene",
        seed=5,
        wide_m=24 * NM,
        zoom_m=5 * NM,
        about="vacancy",
        bias_v=-1.5,
        setpoint_a=60 * PA,
        zoom_bias_v=-1.3,
        zoom_setpoint_a=150 * PA,
        lockin=LockInView(-1.5, 150 * PA, 12 * MV),
        maps_v=(-1.2, 0.45, 1.1),
        sweep_v=(-1.8, 1.6),
        spots=(
            Spot("", "pristine"),
            Spot("vacancy", "Se vacancy"),
            Spot("lower vacancy", "Se vacancy, lower layer"),
            Spot("oxygen", "O at Se site"),
            Spot("dopant", "V at W site"),
        ),
        temperature="4.5 K",
    ),
    "fese": Show(
        title="FeSe, superconducting",
        seed=2,
        wide_m=26 * NM,
        zoom_m=6 * NM,
        about="vacancy",
        bias_v=20 * MV,
        setpoint_a=100 * PA,
        zoom_bias_v=10 * MV,
        zoom_setpoint_a=200 * PA,
        lockin=LockInView(15 * MV, 200 * PA, 0.15 * MV),
        maps_v=(-1.0 * MV, 2.2 * MV, -8 * MV),
        sweep_v=(-15 * MV, 15 * MV),
        spots=(Spot("", "Se lattice"), Spot("vacancy", "Fe vacancy")),
        temperature="1.2 K",
    ),
    "au111": Show(
        title="Au(111)",
        seed=4,
        wide_m=60 * NM,
        zoom_m=22 * NM,
        about="adatom",
        bias_v=0.1,
        setpoint_a=200 * PA,
        zoom_bias_v=0.05,
        zoom_setpoint_a=300 * PA,
        lockin=LockInView(0.3, 300 * PA, 6 * MV),
        maps_v=(-0.35, -0.10, 0.12),
        sweep_v=(-0.8, 0.3),
        spots=(
            Spot("", "terrace"),
            Spot("adatom", "adatom"),
            Spot("molecule", "molecule"),
            Spot("subsurface", "subsurface impurity"),
        ),
        temperature="5 K",
        distorted="wide",
        apart_m=3.5 * NM,
    ),
    "euzn2as2": Show(
        title="EuZn$_2$As$_2$-like",
        seed=1,
        wide_m=250 * NM,
        zoom_m=30 * NM,
        about="triangle",
        bias_v=1.0,
        setpoint_a=50 * PA,
        zoom_bias_v=1.0,
        zoom_setpoint_a=80 * PA,
        lockin=LockInView(1.4, 300 * PA, 20 * MV),
        maps_v=(-0.42, 0.24, 0.65),
        sweep_v=(-1.9, 1.4),
        spots=(
            Spot("", "terrace"),
            Spot("single", "adsorbate"),
            Spot("dimple", "substitution"),
            Spot("triangle", "vacancy"),
        ),
        temperature="77 K",
        lit=True,
        apart_m=1.6 * NM,
    ),
    "vacancy": Show(
        title="Sample “vacancy”",
        seed=1,
        wide_m=120 * NM,
        zoom_m=16 * NM,
        about="triangle",
        bias_v=-0.8,
        setpoint_a=50 * PA,
        zoom_bias_v=-0.8,
        zoom_setpoint_a=80 * PA,
        lockin=LockInView(-1.0, 200 * PA, 15 * MV),
        maps_v=(-0.17, 0.24, 0.9),
        sweep_v=(-1.2, 1.2),
        spots=(
            Spot("", "terrace"),
            Spot("cluster", "adsorbate"),
            Spot("dimple", "substitution"),
            Spot("triangle", "vacancy"),
        ),
        lit=True,
        apart_m=1.3 * NM,
    ),
    "terraces": Show(
        title="Sample “terraces”",
        seed=1,
        wide_m=250 * NM,
        zoom_m=24 * NM,
        about="single",
        bias_v=0.5,
        setpoint_a=50 * PA,
        zoom_bias_v=0.5,
        zoom_setpoint_a=50 * PA,
        lockin=LockInView(0.8, 200 * PA, 15 * MV),
        maps_v=(-0.5, 0.3, 0.7),
        sweep_v=(-1.0, 1.0),
        spots=(Spot("", "terrace"), Spot("single", "adsorbate")),
        lit=True,
        apart_m=1.6 * NM,
    ),
}
RECORDED = "recorded:demo"
NAMES = (*SHOWS, RECORDED)


def named(surface: Surface, form: str) -> list[SurfaceObject]:
    """Objects of a form or kind, the one nearest to the middle first."""
    found = [o for o in surface.objects if form in (o.kind, o.form)]
    return sorted(found, key=lambda o: o.x_m**2 + o.y_m**2)
