"""The error tree; each class knows the exit status of the command line.

HdevError                     1   something failed, nothing was written
├── UsageError               64   the command line or a session line is wrong
├── ConfigError               1   a configuration file or variable is wrong
├── StoreError                1   a store is missing, unreadable or not what was asked for
├── DriftError                3   the world is not what the plan says; nothing was written
├── PartialError              4   some entries failed, or the run was stopped; apply again
├── PolicyError               5   a guard or a policy refused
├── ApprovalError             6   approvals are missing, do not count, or the plan was rejected
│   └── TrustError            6   what approvals are judged by is missing, wrong or out of reach
├── LockedError               7   somebody else holds the plan, or the target
├── PlanError                 8   plan damaged, edited, expired, or for another target
├── AuditError                8   audit log damaged or edited
├── UnanchoredError          10   audit log intact, but nothing outside of it vouches for its end
├── InterruptedEarly        130   stopped by a signal before any write
└── BackendError              9   a server cannot be reached or is not what it should be
    └── KeyRefusedError       9   the server refused the key

A message has three parts: `what` happened (no foreign text in it), `why` (may quote foreign text,
which the command line makes inert before it is shown), and `hint`, the next thing to do.
"""

from __future__ import annotations


class HdevError(Exception):
    """The root: a message in three parts, and the exit status it leads to."""

    exit_code = 1

    def __init__(self, what: str, *, why: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.what} {self.why}".strip()


class UsageError(HdevError):
    exit_code = 64


class ConfigError(HdevError):
    exit_code = 1


class StoreError(HdevError):
    exit_code = 1


class DriftError(HdevError):
    exit_code = 3


class PartialError(HdevError):
    exit_code = 4


class PolicyError(HdevError):
    exit_code = 5


class ApprovalError(HdevError):
    exit_code = 6


class TrustError(ApprovalError):
    exit_code = 6


class LockedError(HdevError):
    exit_code = 7


class PlanError(HdevError):
    exit_code = 8


class AuditError(HdevError):
    exit_code = 8


class UnanchoredError(HdevError):
    exit_code = 10


class InterruptedEarly(HdevError):
    exit_code = 130


class BackendError(HdevError):
    exit_code = 9


class KeyRefusedError(BackendError):
    exit_code = 9
