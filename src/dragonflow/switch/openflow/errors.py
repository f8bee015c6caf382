"""OpenFlow errors with their names, so that a refusal can be read by people.

Sources: OpenFlow 1.5.1 §7.5.4; Open vSwitch's include/openvswitch/ofp-errors.h for its own (experimenter 0x2320).
"""

from __future__ import annotations

from collections.abc import Mapping
from struct import Struct

import msgspec

from dragonflow.switch.openflow.encode import NICIRA

_EXPERIMENTER = 0xFFFF
_HEAD = Struct(">HH")
_EXPERIMENTER_ID = Struct(">I")


def _names(prefix: str, words: str) -> tuple[str, ...]:
    return tuple(prefix + word for word in words.split())


_STANDARD: Mapping[int, tuple[str, ...]] = {
    0: _names(
        "OFPHFC_",
        "INCOMPATIBLE EPERM",
    ),
    1: _names(
        "OFPBRC_",
        "BAD_VERSION BAD_TYPE BAD_STAT BAD_VENDOR BAD_SUBTYPE EPERM BAD_LEN BUFFER_EMPTY BUFFER_UNKNOWN BAD_TABLE_ID "
        "IS_SECONDARY BAD_PORT BAD_PACKET MULTIPART_BUFFER_OVERFLOW MULTIPART_REQUEST_TIMEOUT MULTIPART_REPLY_TIMEOUT "
        "MULTIPART_BAD_SCHED PIPELINE_FIELDS_ONLY UNKNOWN",
    ),
    2: _names(
        "OFPBAC_",
        "BAD_TYPE BAD_LEN BAD_VENDOR BAD_VENDOR_TYPE BAD_OUT_PORT BAD_ARGUMENT EPERM TOO_MANY BAD_QUEUE BAD_OUT_GROUP "
        "MATCH_INCONSISTENT UNSUPPORTED_ORDER BAD_TAG BAD_SET_TYPE BAD_SET_LEN BAD_SET_ARGUMENT BAD_SET_MASK BAD_METER",
    ),
    3: _names(
        "OFPBIC_",
        "UNKNOWN_INST UNSUP_INST BAD_TABLE_ID UNSUP_METADATA UNSUP_METADATA_MASK BAD_EXPERIMENTER BAD_EXP_TYPE BAD_LEN "
        "EPERM DUP_INST",
    ),
    4: _names(
        "OFPBMC_",
        "BAD_TYPE BAD_LEN BAD_TAG BAD_DL_ADDR_MASK BAD_NW_ADDR_MASK BAD_WILDCARDS BAD_FIELD BAD_VALUE BAD_MASK "
        "BAD_PREREQ DUP_FIELD EPERM",
    ),
    5: _names(
        "OFPFMFC_",
        "UNKNOWN TABLE_FULL BAD_TABLE_ID OVERLAP EPERM BAD_TIMEOUT BAD_COMMAND BAD_FLAGS CANT_SYNC BAD_PRIORITY IS_SYNC",
    ),
    6: _names(
        "OFPGMFC_",
        "GROUP_EXISTS INVALID_GROUP WEIGHT_UNSUPPORTED OUT_OF_GROUPS OUT_OF_BUCKETS CHAINING_UNSUPPORTED "
        "WATCH_UNSUPPORTED LOOP UNKNOWN_GROUP CHAINED_GROUP BAD_TYPE BAD_COMMAND BAD_BUCKET BAD_WATCH EPERM "
        "UNKNOWN_BUCKET BUCKET_EXISTS",
    ),
    12: _names(
        "OFPMMFC_",
        "UNKNOWN METER_EXISTS INVALID_METER UNKNOWN_METER BAD_COMMAND BAD_FLAGS BAD_RATE BAD_BURST BAD_BAND "
        "BAD_BAND_VALUE OUT_OF_METERS OUT_OF_BANDS",
    ),
    17: _names(
        "OFPBFC_",
        "UNKNOWN EPERM BAD_ID BUNDLE_EXIST BUNDLE_CLOSED OUT_OF_BUNDLES BAD_TYPE BAD_FLAGS MSG_BAD_LEN MSG_BAD_XID "
        "MSG_UNSUP MSG_CONFLICT MSG_TOO_MANY MSG_FAILED TIMEOUT BUNDLE_IN_PROGRESS SCHED_NOT_SUPPORTED SCHED_FUTURE "
        "SCHED_PAST",
    ),
}
"""Error type → the names of its codes, from 0 on; only those types that what we send can earn."""

_NICIRA: Mapping[int, str] = {
    2: "NXBRC_NXM_INVALID",
    3: "NXBRC_NXM_BAD_TYPE",
    4: "NXBRC_MUST_BE_ZERO",
    5: "NXBRC_BAD_REASON",
    9: "NXBRC_FM_BAD_EVENT",
    10: "NXBRC_UNENCODABLE_ERROR",
    11: "NXBAC_MUST_BE_ZERO",
    12: "NXFMFC_HARDWARE",
    13: "NXFMFC_BAD_TABLE_ID",
    15: "NXBAC_BAD_CONJUNCTION",
    16: "NXTTMFC_BAD_COMMAND",
    17: "NXTTMFC_BAD_OPT_LEN",
    18: "NXTTMFC_BAD_FIELD_IDX",
    19: "NXTTMFC_TABLE_FULL",
    20: "NXTTMFC_ALREADY_MAPPED",
    21: "NXTTMFC_DUP_ENTRY",
    22: "OFPBFC_BAD_VERSION",
    23: "NXQOFC_QUEUE_ERROR",
    34: "NXR_NOT_SUPPORTED",
    35: "NXR_STALE",
    36: "NXST_NOT_CONFIGURED",
    37: "NXFMFC_INVALID_TLV_FIELD",
    38: "NXTTMFC_INVALID_TLV_DEL",
    39: "NXBAC_BAD_HEADER_TYPE",
    40: "NXBAC_UNKNOWN_ED_PROP",
    41: "NXBAC_BAD_ED_PROP",
    42: "NXBAC_CT_DATAPATH_SUPPORT",
    43: "NXBMC_CT_DATAPATH_SUPPORT",
    44: "NXTFFC_DUP_TABLE",
}


class OpenFlowError(msgspec.Struct, frozen=True):
    """An error message: ``name`` as in the specification, ``data`` the beginning of the message that earned it."""

    xid: int
    name: str
    data: bytes = b""

    def __str__(self) -> str:
        return self.name


def decode_error(xid: int, body: bytes) -> OpenFlowError:
    """Read the body of an OFPT_ERROR; what is unknown or cut short gets its numbers as name."""
    if len(body) < _HEAD.size:
        return OpenFlowError(xid, "error without type")
    kind, code = _HEAD.unpack_from(body)
    if kind == _EXPERIMENTER and len(body) >= 8:
        (experimenter,) = _EXPERIMENTER_ID.unpack_from(body, 4)
        name = _NICIRA.get(code) if experimenter == NICIRA else None
        return OpenFlowError(xid, name or f"error {code} of experimenter {experimenter:#x}", body[8:])
    names = _STANDARD.get(kind, ())
    return OpenFlowError(xid, names[code] if code < len(names) else f"error type {kind} code {code}", body[4:])
