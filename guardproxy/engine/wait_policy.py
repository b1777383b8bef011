"""How torch's threads wait for each other: a setting that must be made before torch is imported."""

import os


def set_passive_wait_policy() -> None:
    """Let torch's threads sleep while they wait, by OMP_WAIT_POLICY=PASSIVE. Without effect once torch is imported.

    By default they spin on cores that the thread they wait for may need: beside two other busy processes a check took
    over ten times as long. An OMP_WAIT_POLICY that the operator has set is kept.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
