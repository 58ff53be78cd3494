"""One target in a process of its own: `python -m edgerec_tools.fuzz.worker`, started by `python -m edgerec_tools.fuzz`.

A report is a line of JSON on stdout. The process may take so many bytes more than it had when it began; an execution
that does not come back is broken off. Nothing of edgerec is imported before Atheris watches imports: what it does not
see being imported does not lead it.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

HANGING_S = 10


def main() -> None:
    """Carries out the order that is the one argument, as JSON."""
    order = json.loads(sys.argv[1])
    work = mutate if order["engine"] == "mutation" else guided
    base = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(prefix="edgerec-fuzz-", dir=base) as folder:
        work(order, Path(folder))


def mutate(order: dict[str, Any], folder: Path) -> None:
    """Inputs drawn from the seed (`mutation`)."""
    from edgerec_tools.fuzz.mutation import inputs
    from edgerec_tools.fuzz.session import MOST, begin

    target, session = begin(order, folder)
    signal.signal(signal.SIGALRM, _break_off)
    corpus = [path.read_bytes()[:MOST] for path in _files(order["corpus"])]
    for data in inputs(corpus, target.tokens, target.shape, order["seed"]):
        signal.setitimer(signal.ITIMER_REAL, HANGING_S)
        session.one(data)
        signal.setitimer(signal.ITIMER_REAL, 0)
        if session.over:
            break
    session.report()


def guided(order: dict[str, Any], folder: Path) -> None:
    """Inputs that Atheris draws: it keeps what reaches code that nothing reached before."""
    import atheris

    with atheris.instrument_imports(include=["edgerec", "zipfile", "tomllib"], exclude=["edgerec_tools"]):
        from edgerec_tools.fuzz.mutation import MAX_LENGTH
        from edgerec_tools.fuzz.session import begin
    target, session = begin(order, folder)

    def one(data: bytes) -> None:
        session.one(data)
        if session.over:
            session.report()
            _leave(folder)

    def changed(data: bytes, most: int, seed: int) -> bytes:
        rng = random.Random(seed)
        shaped = target.shape(rng, data, target.tokens) if target.shape is not None and rng.random() < 0.5 else None
        return bytes(atheris.Mutate(data, most) if shaped is None or len(shaped) > most else shaped)

    words = folder / "words"
    words.write_text("".join(f'"{_escaped(token)}"\n' for token in target.tokens))
    options = [f"-seed={order['seed'] % (1 << 32) or 1}", f"-dict={words}", f"-max_len={MAX_LENGTH}"]
    options += [f"-timeout={HANGING_S}", "-rss_limit_mb=0", f"-artifact_prefix={order['findings']}/dead-"]
    options += ["-print_final_stats=0", "-verbosity=0", "-reload=0"]
    atheris.Setup([sys.argv[0], *options, *order["corpus"]], one, custom_mutator=changed)
    atheris.Fuzz()


def _files(folders: Iterable[str]) -> list[Path]:
    return [path for folder in folders for path in sorted(Path(folder).iterdir()) if path.is_file()]


def _escaped(token: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in token)


def _break_off(*_: object) -> NoReturn:
    from edgerec_tools.fuzz.target import TooSlow

    raise TooSlow(f"no end after {HANGING_S} s")


def _leave(folder: Path) -> NoReturn:
    """libFuzzer gives no way to stop but to end the process."""
    import shutil

    shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)


if __name__ == "__main__":
    main()
