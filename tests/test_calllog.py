import json
import time
from pathlib import Path

from voice.calllog import CallLog


def test_what_is_no_json_is_lost_and_nothing_else(tmp_path: Path) -> None:
    log = CallLog(tmp_path)
    log.write("call", {"result": {(1, 2): "a key that JSON has not"}})
    log.write("call", {"type": "end"})
    log.finish("call")
    log.close()
    assert [json.loads(line) for line in (tmp_path / "call.jsonl").read_text().splitlines()] == [
        {"type": "end"}
    ]
    assert log.lost == 1


def test_lines_of_many_calls_are_written_in_order_within_moments(tmp_path: Path) -> None:
    log = CallLog(tmp_path)
    for number in range(50):
        for call in ("a", "b"):
            log.write(call, {"number": number})
    log.finish("a")
    log.write("a", {"number": 50})  # a tool has outlasted its call
    log.finish("a")
    deadline = time.monotonic() + 5
    last = tmp_path / "b.jsonl"
    while not (last.exists() and last.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.01)
    for call, lines in (("a", 51), ("b", 50)):
        file = tmp_path / f"{call}.jsonl"
        numbers = [json.loads(line)["number"] for line in file.read_text().splitlines()]
        assert numbers == list(range(lines))
    log.close()
    assert log.lost == 0


def test_without_a_disk_lines_are_lost_and_counted(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    log = CallLog(tmp_path / "file")
    log.write("call", {"type": "start"})
    log.write("call", {"type": "end"})
    log.finish("call")
    log.close()
    assert log.lost == 2
