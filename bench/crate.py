"""The measurements that are written in Rust: bench/rust, built into the same target folder."""

import json
import os
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

from bench.progress import Progress
from bench.results import Row, Section, Target

TOP = Path(__file__).resolve().parent.parent
CHECKS = 1_000_000


@cache
def program(name: str) -> Path:
    """A binary of bench/rust, compiled when it is not there."""
    subprocess.run(
        ["cargo", "build", "--release", "--quiet", "--bin", name],
        cwd=TOP / "bench" / "rust",
        env=os.environ | {"CARGO_TARGET_DIR": str(TOP / "target")},
        check=True,
    )
    return TOP / "target" / "release" / name


def told(
    section: Section, name: str, cases: str, rounds: int, checks: int, progress: Progress
) -> dict[str, Any]:
    """What one of the programs says of each of its cases."""
    progress.at(section.title, "building the program")
    command: list[str | Path] = [program(name), str(rounds), str(checks)]
    progress.at(section.title, cases)
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def share(rounds: int, progress: Progress) -> Section:
    section = Section("A check over shared memory, from Rust", "ns")
    cases = "one and two processes, one key and 100,000"
    for case, found in told(section, "shared", cases, rounds, CHECKS, progress).items():
        section.rows.append(Row(case, "tollway", found))
        section.targets[case] = Target(cost=150)
    section.notes.append(
        "shm://, GCRA, all allowed; of two processes that check at once, the slower."
    )
    return section


def measure(rounds: int, progress: Progress) -> Section:
    section = Section("A keyed check from Rust, in memory", "ns")
    cases = "eight cases, tollway and governor in turns"
    for case, contenders in told(section, "limiters", cases, rounds, CHECKS, progress).items():
        for name, found in contenders.items():
            extra = {"bytes a key": [found["bytes"]]} if found["bytes"] else {}
            section.rows.append(Row(case, name, found["ns"], extra))
        spread = case.startswith("Zipf")
        section.targets[case] = (
            Target(2.5, ("governor",), 50) if spread else Target(2, ("governor",))
        )
        if case.startswith("one hot key, 1"):
            del section.targets[case]
    section.notes.append(
        "Both with string keys that were written just before; governor with its own hasher. "
        "Memory is what the process grew by while a million keys came in."
    )
    return section


def layers(rounds: int, progress: Progress) -> Section:
    section = Section("What a tower layer adds to a request through axum", "CPU us")
    cases = "three cases, both layers in turns"
    for case, contenders in told(section, "layers", cases, rounds, CHECKS // 10, progress).items():
        for name, found in contenders.items():
            section.rows.append(Row(case, name, [nanoseconds / 1000 for nanoseconds in found]))
        section.targets[case] = Target(4, ("tower_governor",), 5)
    section.notes += [
        "tollway-http and tower_governor 0.8, both in memory by the peer's address, 2,000 clients; "
        "the thread's processor time, in blocks with the layer and without it in turns. A refusal "
        "is counted against the bare route's answer, which it comes in place of.",
        "A refusal of tower_governor makes a clock, which asks the processor what it is: on a "
        "virtual machine that is much of the time.",
        "With headers ours writes five (`RateLimit`, `RateLimit-Policy` and three "
        "`X-RateLimit-*`), tower_governor two.",
    ]
    return section


def tokens(rounds: int, progress: Progress) -> Section:
    section = Section("A token believed, from Rust", "us")
    names = {
        "first": "tollway",
        "again": "tollway, a token that comes again",
        "jsonwebtoken": "jsonwebtoken",
    }
    cases = "four algorithms, tollway and jsonwebtoken in turns"
    for case, ways in told(section, "tokens", cases, rounds, 2_000, progress).items():
        for way, found in ways.items():
            if (case, way) == ("HS256", "again"):  # a shared secret's signature is not remembered
                continue
            row = Row(case, names[way], [nanoseconds / 1000 for nanoseconds in found])
            section.rows.append(row)
    section.notes.append(
        "2,000 tokens with ten claims; audience and times are looked at. jsonwebtoken 11.1 with "
        "aws-lc, which reads the claims into a map; ours with ring."
    )
    return section
