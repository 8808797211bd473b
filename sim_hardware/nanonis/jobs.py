"""Names by which a client of ours says which measurement it takes.

A Nanonis client names what it measures by the base name of its files.  Where such a name is ``tp_`` and a
measurement id with "--" for "/", the measurement belongs to that id, as it would through the other door: in
the truth log, and in what its noise is keyed by.
"""

from __future__ import annotations

from sim_hardware.situation import Activity
from sim_hardware.world import World

PREFIX = "tp_"
SLASH = "--"


def name_of(job_id: str) -> str:
    """The base name of files for a measurement id."""
    return PREFIX + job_id.replace("/", SLASH)


def id_of(name: str) -> str:
    """The measurement id in a base name; empty if there is none."""
    return name.removeprefix(PREFIX).replace(SLASH, "/") if name.startswith(PREFIX) else ""


def begin(world: World, name: str, kind: str) -> str:
    """Begin the job that a base name stands for; its id, empty if there is none or a job is under way."""
    job_id = id_of(name)
    if not job_id or world.job_id:
        return ""
    world.begin_job(job_id, kind)
    return job_id


def end(world: World, job_id: str, activity: Activity) -> None:
    """End a job that ``begin`` has begun."""
    if job_id:
        world.end_job(job_id, activity.state)
