"""The server beside one request after another: answers a second, first token, and memory under broken requests.

`python -m tests.bench.serve [--model DIR]`; without a model, nano as align finds it.
"""

import argparse
import base64
import io
import json
import os
import random
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai

CLIENTS = 32
ROUNDS = 4
REQUESTS = 1_000


def data_urls(count: int) -> list[str]:
    from croc_cli.demo.draw import draw_scene
    from croc_cli.demo.scenes import sample_scene

    urls = []
    for row in range(count):
        file = io.BytesIO()
        draw_scene(sample_scene(0, "test", row)).save(file, "PNG")
        urls.append("data:image/png;base64," + base64.b64encode(file.getvalue()).decode())
    return urls


def message(url: str, question: str) -> list[dict[str, Any]]:
    return [
        {
            "role": "user",
            "content": [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": question}],
        }
    ]


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    value = work()
    return time.perf_counter() - started, value


def batching(client: openai.OpenAI, urls: list[str]) -> None:
    """Print answers a second of 32 clients at once and of one after another."""
    questions = ["What is in the picture?", "Describe the picture in detail.", "How many objects are there?"]
    jobs = [message(urls[n % len(urls)], questions[n % len(questions)]) for n in range(CLIENTS * ROUNDS)]

    def ask(job: list[dict[str, Any]]) -> str:
        answer = client.chat.completions.create(model=client_model(client), messages=job, max_tokens=48)  # type: ignore[call-overload]
        return str(answer.choices[0].message.content)

    ask(jobs[0])
    alone, one_by_one = timed(lambda: [ask(job) for job in jobs])
    with ThreadPoolExecutor(CLIENTS) as pool:
        together, at_once = timed(lambda: list(pool.map(ask, jobs)))
    same = sum(a == b for a, b in zip(one_by_one, at_once, strict=True))
    print(
        f"one after another {len(jobs) / alone:.1f} answers/s, {CLIENTS} clients {len(jobs) / together:.1f} answers/s"
    )
    print(f"ratio {alone / together:.2f}; equal answers {same} of {len(jobs)}")


def client_model(client: openai.OpenAI) -> str:
    return client.models.list().data[0].id


def first_token(client: openai.OpenAI, folder: Path, urls: list[str]) -> None:
    """Print the time to the first token of the server and of `croc chat`'s session in this process."""
    from PIL import Image

    from croc_cli.chat.images import ChatImage
    from croc_cli.chat.session import ChatSession
    from croc_cli.checkpoint.load import load_for_inference

    session = ChatSession(load_for_inference(folder), max_tokens=48)
    name = client_model(client)
    chat, served = [], []
    for row in range(24):
        url = urls[row % len(urls)]
        picture = Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))).convert("RGB")
        session.restart()
        session.show(ChatImage("picture", picture))
        started = time.perf_counter()
        chat.append(first_piece(session) - started)
        started = time.perf_counter()
        job = message(url, "Describe the picture in detail.")
        for chunk in client.chat.completions.create(model=name, messages=job, max_tokens=48, stream=True):  # type: ignore[call-overload]
            if chunk.choices and chunk.choices[0].delta.content:
                served.append(time.perf_counter() - started)
                break
        time.sleep(0.2)
    ratio = statistics.median(served) / statistics.median(chat)
    print(f"first token, medians of {len(chat)}: server {1000 * statistics.median(served):.1f} ms,", end=" ")
    print(f"croc chat {1000 * statistics.median(chat):.1f} ms, ratio {ratio:.2f}")


def first_piece(session: Any) -> float:
    """Return when the first piece of an answer came."""
    seen: list[float] = []
    session.ask("Describe the picture in detail.", on_text=lambda _: seen.append(time.perf_counter()))
    return seen[0]


def broken(url: str, urls: list[str], name: str) -> None:
    """Send 1,000 requests of which a tenth is broken; print memory, threads and wrong answers."""
    draw = random.Random(0)
    host, port = url.removeprefix("http://").split(":")
    want: dict[str, str] = {}
    lock = threading.Lock()
    wrong: list[str] = []

    def good(number: int) -> None:
        job = {"model": name, "messages": message(urls[number % len(urls)], "What is it?"), "max_tokens": 8}
        while (answer := httpx.post(f"{url}/v1/chat/completions", json=job, timeout=300)).status_code == 429:
            time.sleep(float(answer.headers["Retry-After"]))
        text = answer.json()["choices"][0]["message"]["content"]
        with lock:
            if want.setdefault(urls[number % len(urls)], text) != text:
                wrong.append(text)

    def bad(number: int) -> None:
        kind = number % 5
        headers = {"Content-Type": "application/json"}
        if kind == 0:
            with socket.create_connection((host, int(port))) as raw:
                raw.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999\r\n\r\n{")
        elif kind == 1:
            huge = base64.b64encode(os.urandom(2**20)).decode()
            job = {"messages": message("data:image/png;base64," + huge, "?")}
            assert httpx.post(f"{url}/v1/chat/completions", json=job, timeout=300).status_code == 422
        elif kind == 2:
            answer = httpx.post(f"{url}/v1/chat/completions", content=b"{wrong", headers=headers, timeout=300)
            assert answer.status_code == 400
        elif kind == 3:
            job = {"messages": message(urls[0], "A story"), "stream": True, "max_tokens": 400}
            with httpx.stream("POST", f"{url}/v1/chat/completions", json=job, timeout=300) as stream:
                next(stream.iter_bytes(), b"")
        else:
            body = json.dumps({"messages": message(urls[0], "x" * 40_000)})
            answer = httpx.post(f"{url}/v1/chat/completions", content=body, headers=headers, timeout=300)
            assert answer.status_code in (400, 429)

    def wave(count: int) -> None:
        works = [(bad if draw.random() < 0.1 else good, number) for number in range(count)]
        with ThreadPoolExecutor(CLIENTS) as pool:
            list(pool.map(lambda job: job[0](job[1]), works))

    pid = int(os.environ["CROC_BENCH_SERVER_PID"])
    wave(REQUESTS)  # allocators and caches fill
    before = memory(pid)
    wave(REQUESTS)
    after = memory(pid)
    print(
        f"{REQUESTS} requests, a tenth broken: wrong answers {len(wrong)}; memory {before[0]} -> {after[0]} MB"
        f" ({after[0] / before[0] - 1:+.1%}), threads {before[1]} -> {after[1]}"
    )


def memory(pid: int) -> tuple[int, int]:
    """Return megabytes in memory and threads of a process."""
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    return int(lines["VmRSS"].split()[0]) // 1024, int(lines["Threads"])


def main() -> None:
    import re
    import subprocess
    import sys

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path)
    given, _ = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.model
        if folder is None:
            from tests.nano import assemble_nano

            folder = assemble_nano(Path(scratch) / "nano")
        words = [sys.executable, "-m", "croc_cli", "serve", "--model", str(folder), "--port", "0"]
        with open(Path(scratch) / "log", "w+") as log, subprocess.Popen(words, stderr=log) as process:
            try:
                while not (found := re.search(r"at (http://\S+)", (Path(scratch) / "log").read_text())):
                    time.sleep(0.2)
                url = found[1]
                os.environ["CROC_BENCH_SERVER_PID"] = str(process.pid)
                client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=8)
                urls = data_urls(16)
                batching(client, urls)
                first_token(client, folder, urls)
                broken(url, urls, client_model(client))
            finally:
                process.terminate()


if __name__ == "__main__":
    main()
