"""Records of turns, as calls log them; for the tests of what reads them."""

from typing import Any

WALL = 1_796_033_882.2
"""Unix time at which the caller of `record` fell silent."""


def record(**changes: Any) -> dict[str, Any]:
    """Return the event "trace" of a turn of 300 ms whose answer was made before the decision."""
    made: dict[str, Any] = {
        "type": "trace",
        "turn": 3,
        "call": "call_ab12",
        "transport": "websocket",
        "began": 12345.678,
        "wall": WALL,
        "total": 0.3,
        "stages": {
            "framing": 0.01,
            "vad": 0.05,
            "endpoint": 0.14,
            "first_phrase": 0.02,
            "tts": 0.05,
            "silence": 0.028,
            "unattributed": 0.002,
        },
        "spans": [
            ["framing", 0.0, 0.01],
            ["vad", 0.01, 0.06],
            ["endpoint", 0.06, 0.2],
            ["asr", 0.062, 0.11],
            ["llm", 0.11, 0.16],
            ["first_phrase", 0.16, 0.22],
            ["tts", 0.22, 0.27],
            ["silence", 0.272, 0.3],
        ],
        "marks": {
            "arrived": 0.01,
            "vad_end": 0.06,
            "speculation": 0.062,
            "decided": 0.2,
            "let_go": 0.2,
            "sent": 0.272,
            "heard": 0.3,
            "played": 2.4,
        },
        "outcome": "played",
        "speculations": {"begun": 2, "kept": 1, "dropped": 1},
        "llm": {
            "ttft": 0.05,
            "tokens": 30,
            "tokens_per_second": 95.0,
            "itl_p50": 0.01,
            "itl_p95": 0.011,
        },
        "asr": {"rtf": 0.1},
        "tts": {"rtf": 0.05},
        "loop_late": 0.001,
        "barge_in": None,
        "cut_in": False,
        "underruns": 0,
        "wasted": 0.1,
        "worked": 0.3,
        "missed": False,
        "budget": 0.8,
        "over": "",
    }
    return made | changes
