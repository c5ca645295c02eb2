"""Runs one vLLM after the other in a few seconds each: vLLM is imported once, then forked.

A line of JSON on stdin is what to run, {"model": ..., "options": {...}, "prompts": [[ids], ...],
"tokens": n, "adapter": name}; a line on stdout is what came of it, {"answers": [[ids], ...],
"cached": [n, ...], "drafted": n, "accepted": n} or {"error": ...}. The prompts go one by one.
"""

import faulthandler
import json
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

from llm.vllm_options import VllmOptions, engine_args

os.environ |= {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine in the very process, without imports
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
}

LONGEST = 240
"""Seconds that one run may take."""


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Load the model, let it answer, and return what came of it."""
    from vllm import LLM, SamplingParams
    from vllm.inputs import TokensPrompt
    from vllm.lora.request import LoRARequest

    options = VllmOptions(**job["options"])
    args = engine_args(job["model"], options, "cpu") | {"disable_log_stats": False}
    llm = LLM(**args)
    adapter = job.get("adapter")
    lora = LoRARequest(adapter, 1, options.adapters[adapter]) if adapter else None
    sampling = SamplingParams(temperature=0, max_tokens=job["tokens"], detokenize=False)
    answers, cached = [], []
    for prompt in job["prompts"]:
        given = TokensPrompt(prompt_token_ids=prompt)
        (found,) = llm.generate(given, sampling, use_tqdm=False, lora_request=lora)
        answers.append(list(found.outputs[0].token_ids))
        cached.append(found.num_cached_tokens or 0)
        if job.get("reset"):
            llm.reset_prefix_cache()
    counted = {metric.name: getattr(metric, "value", 0) for metric in llm.get_metrics()}
    return {
        "answers": answers,
        "cached": cached,
        "drafted": counted.get("vllm:spec_decode_num_draft_tokens", 0),
        "accepted": counted.get("vllm:spec_decode_num_accepted_tokens", 0),
    }


def forked(job: dict[str, Any]) -> dict[str, Any]:
    """Do so in a child of this process."""
    with tempfile.NamedTemporaryFile("r") as result:
        child = os.fork()
        if not child:
            faulthandler.dump_traceback_later(LONGEST - 10)  # where it hangs, to the log
            signal.alarm(LONGEST)
            try:
                found = run(job)
            except BaseException as error:
                found = {"error": f"{type(error).__name__}: {error}"[:2000]}
            Path(result.name).write_text(json.dumps(found))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        text = result.read()
    return json.loads(text) if text else {"error": f"ended with status {status}"}


def main() -> None:
    """Import what takes long, then serve."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # vLLM writes to stdout, too
    import vllm.model_executor.models.llama
    import vllm.v1.engine.llm_engine
    from vllm import LLM

    assert LLM and vllm
    for line in sys.stdin:
        print(json.dumps(forked(json.loads(line))), file=answers)


if __name__ == "__main__":
    main()
