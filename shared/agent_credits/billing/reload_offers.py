"""What a team's next reload would buy, or why the team's own row declines it.

Packs are looked up in the newest policy, the one that the team's settings were declared with. It
applies to settings at once, while runs are billed by it only from its tenure on.
"""

from datetime import datetime

from msgspec import Struct

from agent_credits.billing.policy import BillingPolicy, Pack
from agent_credits.billing.spend_cap import PaymentMethod, month_to_reserve_in
from agent_credits.billing.teams import AutoReload, Team
from agent_credits.ledger.reloads import DeclineCause


class ReloadOffer(Struct, frozen=True):
    """`affordable_packs`: how many packs the cap leaves room for in `month`; it may be none."""

    settings: AutoReload
    method: PaymentMethod
    pack: Pack
    month: str
    affordable_packs: int


def reload_offer(team: Team, policy: BillingPolicy, now: datetime) -> ReloadOffer | DeclineCause:
    """Return the offer; `policy` is the one that `team.settings_policy_version` names."""
    settings, method = team.auto_reload, team.payment
    if settings is None or not settings.enabled:
        return "auto_reload_off"
    if method is None:
        return "payment_method_missing"
    if team.spending.suspended_payment_method == method.name:
        return "suspended"
    pack = policy.pack_of(settings.pack_microcredits, team.currency)
    if pack is None:
        return "auto_reload_not_applicable"
    month = month_to_reserve_in(team.spending, now, team.time_zone)
    head_room_cents = team.spending.head_room(team.spend_cap_cents, month)
    return ReloadOffer(settings, method, pack, month, head_room_cents // pack.price_cents)


def decline_foreseen(team: Team, policy: BillingPolicy, now: datetime) -> DeclineCause | None:
    """Return why a reload would be declined without charging a card, as far as the row shows."""
    offer = reload_offer(team, policy, now)
    if not isinstance(offer, ReloadOffer):
        return offer
    return None if offer.affordable_packs else "spend_cap_reached"
