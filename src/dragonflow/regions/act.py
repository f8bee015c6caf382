"""Carries a plan out, step by step."""

from __future__ import annotations

from dragonflow.regions.cloud import RegionApi
from dragonflow.regions.plan import AddTag, CreatePort, DeletePort, RemoveTag, SetMtu, Step, UpdatePort


def perform(step: Step, api: RegionApi) -> None:
    """Do one step in its region. :raises CloudError: it was not done, or nobody knows."""
    match step:
        case CreatePort():
            api.create_port(step.port)
        case UpdatePort():
            api.update_port(step.port, step.changes)
        case DeletePort():
            api.delete_port(step.port)
        case SetMtu():
            api.set_mtu(step.network, step.mtu)
        case AddTag():
            api.add_tag(step.network, step.tag)
        case RemoveTag():
            api.remove_tag(step.network, step.tag)


def target(step: Step) -> str:
    """What the step is about, in a few words that are the same each time it is planned."""
    match step:
        case CreatePort():
            return f"create {step.port['device_id']} in {step.port['network_id']}"
        case UpdatePort():
            return f"update {step.port}"
        case DeletePort():
            return f"delete {step.port}"
        case SetMtu():
            return f"MTU of {step.network}"
        case AddTag():
            return f"tag of {step.network}"
        case RemoveTag():
            return f"untag {step.network}"
