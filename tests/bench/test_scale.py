"""Rules of the model of scale: what it reckons with, worked out by hand, and docs/scale.md says what it says."""

import re
import shlex
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from msgspec.structs import replace as replaced

from handlers.bootstrap import MAX_RESUMED
from handlers.domain.ledger_entry import LedgerEntry
from handlers.google.user_tokens import MAX_CACHED_TOKENS
from handlers.settings import from_environment
from infra.delivery.prices import per_million
from local.function_server import ROOT
from tests.bench.scale import RATES, Found, Quotas, run, told
from tests.bench.scale_assumed import Assumed, distinct
from tests.bench.scale_cost import Taken, usd

EVER = datetime(2026, 11, 23, tzinfo=UTC)
DOCUMENT = (ROOT / "docs" / "scale.md").read_text()
COMMANDS = re.findall(r"^`python -m tests\.bench\.scale(.*)`$", DOCUMENT, re.MULTILINE)
AT_WORST = Assumed(window_least=3000, pending=0, jitter=0)
FEWER = replace(AT_WORST, attempts=30)


def _in_terraform(file: str, pattern: str) -> float:
    found = re.search(pattern, (ROOT / "infra" / file).read_text(), re.DOTALL)
    assert found is not None, pattern
    return float(found[1])


SETTINGS = {
    "concurrency": _in_terraform("variables.tf", r'variable "concurrency" {.*?default\s+= (\d+)'),
    "max_instances": _in_terraform("variables.tf", r'variable "max_instances" {.*?default\s+= (\d+)'),
    "attempts": _in_terraform("variables.tf", r'variable "max_delivery_attempts" {.*?default\s+= (\d+)'),
    "back_off": _in_terraform("subscriptions.tf", r'minimum_backoff = "(\d+)s"'),
    "back_off_most": _in_terraform("subscriptions.tf", r'maximum_backoff = "(\d+)s"'),
}


def test_what_it_calls_a_setting_of_infra_is_what_terraform_sets() -> None:
    called = {name for name, of in Assumed.__dataclass_fields__.items() if of.metadata["help"].startswith("infra/")}
    assert {name: getattr(Assumed(), name) for name in called} == SETTINGS


def test_an_instance_remembers_as_many_credentials_as_the_function_keeps() -> None:
    assert MAX_CACHED_TOKENS == Assumed().remembered


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("assumed", [Assumed(attempts=3), Assumed(), AT_WORST])
def test_every_message_is_retried_or_dead_in_the_end(rate: int, assumed: Assumed) -> None:
    found = run(rate, assumed)
    assert rate * 10 == found.published == found.retried + found.dead


@pytest.mark.parametrize("assumed", [Assumed(), AT_WORST, Assumed(portability=200_000, firestore=1e6)])
def test_every_delivery_is_counted_as_retried_or_turned_away_and_its_writes_with_it(assumed: Assumed) -> None:
    found = run(100_000, assumed)
    away = found.turned_away
    assert found.taken.deliveries == found.retried + away.total()
    released = away["Data Portability API"] + away["Secret Manager"]
    assert found.taken.writes == 3 * found.retried + 2 * released


def test_what_a_quota_does_not_let_through_in_time_is_the_backlog() -> None:
    found = run(100_000, Assumed())
    assert found.backlog == 10 * (100_000 - 6_000)
    assert found.seconds > 60 * 1_000_000 / 6_000


# --- instances ---


def test_one_instance_is_enough_up_to_5760_jobs_a_minute_and_18_are_needed_for_100000() -> None:
    assert 60 * 0.6 * 80 / 0.5 == 5_760  # 60 % of 80 at once, half a second each
    assert Assumed().running(5_760 / 60) == 1
    assert Assumed().running(5_761 / 60) == 2
    assert Assumed(max_instances=100).running(100_000 / 60) == 18  # 17.4
    assert Assumed().running(100_000 / 60) == 10


def test_where_deliveries_compute_for_long_the_cpu_decides_how_many_instances_there_are() -> None:
    assert Assumed(cpu=0.1).running(30) == 5  # 3 CPUs' worth, at 60 % each
    assert Assumed(cpu=0.1).capacity == 100


def test_cloud_run_turns_away_what_is_neither_in_hand_nor_taken_from_the_queue_in_time() -> None:
    at_once = Assumed(pending=0)
    assert at_once.beyond(3_000) == (3_000 - 10 * 80) / 0.5
    assert at_once.beyond(800) == 0
    assert Assumed().beyond(3_000) == 0  # ten instances take 1,600 a second: 2,200 wait for less than 10 s
    assert Assumed(max_instances=1).beyond(3_000) == (3_000 - 80 - 160 * 10) / 10


def test_a_delivery_that_finds_no_instance_counts_towards_the_dead_letters() -> None:
    enough = Assumed(window_least=3_000, pending=0, attempts=5, portability=10**9, firestore=1e9, secret=10**9)
    found = run(100_000, enough)
    assert found.turned_away.keys() == {"Cloud Run (429)"}
    assert found.dead > 0
    assert found.most == 5


# --- Pub/Sub ---


def test_the_window_doubles_and_halves_between_its_bounds() -> None:
    assumed = Assumed()
    assert assumed.narrowed(5, pushed=10, in_vain=5) == 10
    assert assumed.narrowed(10, pushed=10, in_vain=6) == 5
    assert assumed.narrowed(2_000, pushed=10, in_vain=0) == 3_000
    assert assumed.narrowed(8, pushed=10, in_vain=10) == 5
    assert assumed.narrowed(40, pushed=0, in_vain=0) == 40
    assert Assumed(window_least=3_000).narrowed(40, pushed=10, in_vain=10) == 40


def test_30_deliveries_last_four_hours_and_100_nearly_sixteen() -> None:
    def lasts(attempts: int) -> float:
        return sum(Assumed().wait(attempt) for attempt in range(1, attempts))

    assert lasts(30) == (10 + 20 + 40 + 80 + 160 + 320) + 23 * 600 == 14_430
    assert lasts(100) == 630 + 93 * 600 == 56_430
    assert 14_430 * 6_000 / 60 == 1_443_000
    assert "four hours at 6,000 calls a minute are 1.44 million jobs" in DOCUMENT
    assert "14,430 s (4.0 hours)" in DOCUMENT
    assert "56,430 s (15.7 hours)" in DOCUMENT


def test_calls_in_doubt_come_after_the_pauses_that_the_document_names() -> None:
    entry = LedgerEntry(job_id="j", root_job_id="j", retries_before=0, updated_at=EVER, expire_at=EVER)
    policy = from_environment({"GOOGLE_CLOUD_PROJECT": "p"}).retry_policy
    pauses = [policy.pause_before(replaced(entry, calls_made=calls)) for calls in (1, 2, 3)]
    assert [0, 2, 62, 122] == [sum(pauses[:calls]) / 60 for calls in range(4)]
    assert "a job's calls go at 0, 2 and 62 minutes" in " ".join(DOCUMENT.split())
    assert "after 122 minutes" in " ".join(DOCUMENT.split())


def test_the_first_storm_needs_ten_deliveries_and_of_the_worst_thirty_leave_seventeen_in_a_hundred() -> None:
    kind, worst = run(100_000, Assumed()), run(100_000, FEWER)
    assert (kind.dead, kind.most, worst.most) == (0, 10, 30)
    assert round(worst.dead / worst.published, 2) == 0.17
    assert "no more than 10 of them" in DOCUMENT
    assert "17 % of a single million" in DOCUMENT


def test_a_queue_of_ten_seconds_saves_the_worst_storm_and_half_the_quota_is_too_little_for_a_hundred_deliveries() -> (
    None
):
    queued = run(100_000, replace(FEWER, pending=10))
    assert (queued.dead, queued.most) == (0, 23)
    assert "23 deliveries are enough" in DOCUMENT
    left = [run(100_000, replace(AT_WORST, portability=3_000, attempts=attempts)).dead for attempts in (100, 30)]
    assert [round(dead / 1_000_000, 2) for dead in left] == [0.01, 0.53]
    assert "even 100 leave 1 % at worst, where 30 leave 53 %" in DOCUMENT


def test_ten_instances_take_the_storm_that_raised_quotas_let_through_even_at_worst() -> None:
    found = run(100_000, replace(AT_WORST, portability=200_000, firestore=1e6))
    assert (found.dead, found.most, round(found.seconds / 60)) == (0, 10, 41)
    assert "need 41 minutes and up to ten deliveries" in DOCUMENT


def test_what_avoids_it_is_more_deliveries_and_a_longer_wait_just_so_but_not_more_instances() -> None:
    assert run(100_000, replace(FEWER, max_instances=40)).dead > 0
    longer, more = run(100_000, replace(FEWER, back_off=120.0)), run(100_000, AT_WORST)
    assert (longer.dead, more.dead) == (0, 0)
    assert f"({longer.most} of 30)" in DOCUMENT
    assert f"the fourth table needs {more.most}." in " ".join(DOCUMENT.split())


# --- quotas ---


def _served(quotas: Quotas, batch: int, anew: float, *, again: bool) -> tuple[int, Found]:
    found = Found()
    return quotas.serve(batch, anew, found, again=again), found


def _quotas(**assumed: float) -> Quotas:
    quotas = Quotas(Assumed(**assumed))  # type: ignore[arg-type]
    quotas.refill(0)
    return quotas


def test_a_first_delivery_that_firestore_turns_away_has_read_its_secret() -> None:
    done, found = _served(_quotas(firestore=0), 10, 1.0, again=False)
    assert (done, found.turned_away) == (0, Counter({"Firestore": 10}))
    assert (found.taken.accesses, found.taken.reads, found.taken.writes) == (10, 0, 0)


def test_one_that_comes_again_has_not() -> None:
    done, found = _served(_quotas(firestore=0), 10, 1.0, again=True)
    assert (done, found.turned_away) == (0, Counter({"Firestore": 10}))
    assert (found.taken.accesses, found.taken.reads, found.taken.writes) == (0, 0, 0)


@pytest.mark.parametrize(("again", "reads"), [(False, 0), (True, 4)])
def test_what_google_turns_away_takes_claim_and_release_and_a_secret_that_is_not_remembered(
    again: bool, reads: int
) -> None:
    done, found = _served(_quotas(portability=0), 4, 0.25, again=again)
    assert (done, found.turned_away) == (0, Counter({"Data Portability API": 4}))
    assert (found.taken.accesses, found.taken.reads, found.taken.writes) == (1, reads, 8)


def test_what_secret_manager_turns_away_takes_claim_and_release_and_spares_those_who_are_remembered() -> None:
    done, found = _served(_quotas(secret=3), 10, 0.5, again=False)
    assert (done, found.turned_away) == (8, Counter({"Secret Manager": 2}))  # five ask, three get it
    assert (found.taken.accesses, found.taken.writes) == (3, 8 * 3 + 2 * 2)


def test_a_retry_takes_three_operations_of_firestore_and_a_fourth_when_it_is_delivered_again() -> None:
    assert _served(_quotas(firestore=12), 10, 0.0, again=False)[0] == 4
    assert _served(_quotas(firestore=12), 10, 0.0, again=True)[0] == 3


def test_firestore_grows_by_half_of_what_was_used_in_five_minutes_and_not_by_itself() -> None:
    quotas = _quotas(firestore=300, portability=1_000_000)
    for second in range(1, 301):
        quotas.refill(second)
    assert quotas.ramp == 300
    for second in range(301, 601):
        _served(quotas, 100, 0.0, again=False)  # 300 operations a second
        quotas.refill(second)
    assert quotas.ramp == 450
    for second in range(601, 901):
        _served(quotas, 110, 0.0, again=False)  # 330: a half more would be 495
        quotas.refill(second)
    assert quotas.ramp == 495


def test_three_jobs_of_a_user_need_nearly_three_secrets_where_there_are_twenty_instances() -> None:
    assert distinct(3, 20) == pytest.approx(20 * (1 - 0.95**3)) == pytest.approx(2.8525)
    assert distinct(3, 1) == 1
    three = Assumed(jobs_a_user=3)
    assert three.read_anew(1, instances=20, users=1_000) == pytest.approx(2.8525 / 3)
    assert three.read_anew(1, instances=1, users=1_000) == pytest.approx(1 / 3)
    assert Assumed().read_anew(2, instances=10, users=1_000) == pytest.approx(0.9)  # nine in ten are others
    assert Assumed().read_anew(2, instances=10, users=1_000_000) == pytest.approx(0.99)  # and nine in ten forgotten


# --- cost ---


def test_jobs_that_nothing_hinders_cost_what_make_prices_says() -> None:
    found = run(1, Assumed())
    apart = ("Cloud Monitoring: metrics", "Pub/Sub: the failed events, kept")  # the second is a week's, and no minute's
    others = sum(dollars for name, _, dollars in per_million(1) if name not in apart)
    ten_points = 10 * 616 / 2**20 * 0.258  # one a minute: there, as many jobs come in it as can
    assert usd(found.taken) == pytest.approx(others * 10 / 1_000_000 + ten_points)


def test_ten_thousand_jobs_at_a_thousand_a_minute_cost_nine_cents() -> None:
    by_hand = (
        600 * (0.000024 + 0.5 * 0.0000025)  # one instance, ten minutes
        + 10_000 * 0.40 / 1_000_000  # requests
        + 10_000 * 4 * 1_000 * 40 / 2**40  # messages
        + 10_000 * 2_000 * 0.50 / 2**30  # log lines
        + 10_000 * 0.03 / 10_000  # secrets
        + 10_000 * (3 * 0.09 + 2 * 0.01) / 100_000  # writes and deletes
        + 10 * 608 * 0.258 / 2**20  # metrics
    )
    assert usd(run(1_000, Assumed()).taken) == pytest.approx(by_hand, rel=0.01) == pytest.approx(0.0904, rel=0.01)


def test_a_delivery_that_google_turns_away_is_paid_for_too() -> None:
    in_vain = Taken(deliveries=1, accesses=1, reads=1, writes=2)
    by_hand = 0.40e-6 + 1_000 * 40 / 2**40 + 2_000 * 0.50 / 2**30 + 3e-6 + 0.3e-6 + 2 * 0.9e-6
    assert usd(in_vain) == pytest.approx(by_hand)


def test_an_instance_is_paid_while_it_has_a_request_in_hand_however_few() -> None:
    assert run(1, Assumed()).taken.instance_seconds == 10 * 0.5
    assert run(1_000, Assumed()).taken.instance_seconds == pytest.approx(600, rel=0.01)


# --- the document ---


@pytest.mark.parametrize("command", COMMANDS)
def test_the_tables_in_the_document_are_what_its_commands_print(command: str) -> None:
    assert told(shlex.split(command)) in DOCUMENT


def test_every_table_of_runs_in_the_document_has_its_command() -> None:
    assert len(COMMANDS) == DOCUMENT.count("| over after |") == 4


def test_a_run_of_the_schedule_puts_back_as_many_deferrals_as_the_document_says() -> None:
    every = _in_terraform("variables.tf", r'variable "resume_schedule" {.*?default\s+= "\*/(\d+) \* \* \* \*"')
    said = f"{MAX_RESUMED:,} a run, which is {MAX_RESUMED / every:,.0f} a minute"
    assert said in " ".join(DOCUMENT.split())
