"""A clock that is wrong is told of now and then, not with every frame."""

from __future__ import annotations

from respkv.node.clock_alarm import TOLD_US, ClockAlarm


def test_one_line_for_each_member_and_minute() -> None:
    lines: list[tuple[str, str]] = []
    alarm = ClockAlarm(lambda level, text: lines.append((level, text)))
    for at in range(1000):
        alarm.raised(2, "remote clock is 60000 ms ahead", 5 + at)
    alarm.raised(3, "remote clock is 70000 ms ahead", 6)
    assert alarm.count == 1001
    assert [level for level, _ in lines] == ["warning", "warning"]
    assert "member 2" in lines[0][1] and "60000 ms" in lines[0][1] and "member 3" in lines[1][1]
    alarm.raised(2, "still", 5 + TOLD_US)
    alarm.raised(2, "still", 6 + TOLD_US)
    assert len(lines) == 3
