from __future__ import annotations

from respkv.testing.schedule import EPOCH_MS, Schedule, Trace, VirtualClock


def test_events_run_in_order_of_time_and_of_asking() -> None:
    schedule, seen = Schedule(), []
    schedule.at(20, lambda: seen.append("late"))
    schedule.at(10, lambda: seen.append("first"))
    schedule.at(10, lambda: seen.append("second"))
    schedule.at(10, lambda: schedule.after(0, lambda: seen.append("made meanwhile")))
    schedule.run_until(15)
    assert (seen, schedule.now_us, schedule.waiting()) == (["first", "second", "made meanwhile"], 15, 1)
    schedule.at(5, lambda: seen.append("too late is now"))
    schedule.run_until(15)
    assert seen[-1] == "too late is now" and schedule.now_us == 15


def test_a_run_may_be_stopped_in_between() -> None:
    schedule, seen = Schedule(), []
    for time_us in (1, 2, 3):
        schedule.at(time_us, lambda time_us=time_us: seen.append(time_us))  # type: ignore[misc]
    schedule.run_until(10, stop=lambda: len(seen) == 2)
    assert (seen, schedule.now_us) == ([1, 2], 2)


def test_clocks_drift_and_are_off() -> None:
    schedule = Schedule()
    clock = VirtualClock(schedule, offset_us=-500, drift_ppm=1_000)
    start_us = clock.monotonic_us()
    assert clock.wall_us() == EPOCH_MS * 1000 - 500
    schedule.run_until(1_000_000)
    assert clock.monotonic_us() - start_us == 1_001_000
    assert clock.wall_us() == EPOCH_MS * 1000 + 1_001_000 - 500
    assert clock.true_us(clock.monotonic_us()) == 1_000_000
    due_us = clock.monotonic_us() + 777
    schedule.run_until(clock.true_us(due_us))
    assert 0 <= clock.monotonic_us() - due_us <= 1


def test_the_greatest_time_shown_outlives_a_clock_that_is_set_back() -> None:
    clock = VirtualClock(Schedule(), offset_us=3_000)
    clock.set_offset(0)
    assert clock.greatest_us() - clock.wall_us() == 3_000


def test_the_trace_depends_on_every_line_and_its_time() -> None:
    def digest(*lines: tuple[int, str]) -> str:
        schedule = Schedule()
        trace = Trace(schedule)
        for time_us, text in lines:
            schedule.run_until(time_us)
            trace.line(text)
        return trace.digest()

    assert digest((1, "a"), (2, "b")) == digest((1, "a"), (2, "b"))
    assert len({digest((1, "a"), (2, "b")), digest((1, "a"), (3, "b")), digest((1, "a")), digest((1, "b"))}) == 4
