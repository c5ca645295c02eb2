import json
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
