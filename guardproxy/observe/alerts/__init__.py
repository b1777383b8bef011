"""Somebody is told of decisions: what receivers read, how they get it, and how often."""

from guardproxy.observe.alerts.delivery import MESSAGE_ALERTS, AlertDelivery
from guardproxy.observe.alerts.follower import AlertFollower, FollowedRecords
from guardproxy.observe.alerts.memory import MemoryAlerts
from guardproxy.observe.alerts.receivers import AlertReceiver, NotTaken
from guardproxy.observe.alerts.syslog import SyslogReceiver
from guardproxy.observe.alerts.webhook import WebhookReceiver

__all__ = [
    "MESSAGE_ALERTS",
    "AlertDelivery",
    "AlertFollower",
    "AlertReceiver",
    "FollowedRecords",
    "MemoryAlerts",
    "NotTaken",
    "SyslogReceiver",
    "WebhookReceiver",
]
