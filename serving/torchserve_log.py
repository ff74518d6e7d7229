"""What TorchServe writes down, and what its log says when a worker does not start.

TorchServe's own settings write every line twice, some fifteen of them per request, and one of the two files without bound. Here the console
holds what Java says when it starts, and the other files are bounded.
"""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

CONSOLE, SERVER, WORKERS = "console.log", "server.log", "workers.log"
CONFIGURATION = "log4j2.xml"
_BEGINS = "Traceback (most recent call last):"
_CHAINED = "During handling of the above exception, another exception occurred:"
_CAUSED = "The above exception was the direct cause of the following exception:"
#: TorchServe looks for a handler that cannot be imported among its own, and its error hides the first
_MISLEADING = "ModuleNotFoundError: No module named 'ts.torch_handler."
#: the first line of a worker's process
_STARTS = "s_name_part0="
#: what TorchServe's log says when the process of a worker ended, or answered that it cannot load
_FAILURE = re.compile(r"Load model failed: |Backend worker error")
_TAIL = 20


def logging_configuration() -> str:
    """Text of a log4j file: bounded files below `LOG_LOCATION`, warnings of the server, every line of the workers and of access."""
    files = {SERVER: "%d{ISO8601} %p %t %c - %m%n", WORKERS: "%d{ISO8601} %t %m%n", "access.log": "%d{ISO8601} %m%n"}
    appenders = "".join(_appender(name, layout) for name, layout in files.items())
    loggers = "".join(
        f'<Logger name="{name}" level="info" additivity="false"><AppenderRef ref="{file}"/></Logger>'
        for name, file in (("MODEL_LOG", WORKERS), ("ACCESS_LOG", "access.log"))
    )
    silent = "".join(f'<Logger name="{name}" level="off"/>' for name in ("MODEL_METRICS", "TS_METRICS", "org.apache"))
    root = f'<Root level="warn"><AppenderRef ref="{SERVER}"/></Root>'
    return f"<Configuration><Appenders>{appenders}</Appenders><Loggers>{loggers}{silent}{root}</Loggers></Configuration>"


def _appender(name: str, layout: str) -> str:
    where = "${env:LOG_LOCATION}/" + name
    return (
        f'<RollingFile name="{name}" fileName="{where}" filePattern="{where}.%i"><PatternLayout pattern="{layout}"/>'
        '<Policies><SizeBasedTriggeringPolicy size="10 MB"/></Policies><DefaultRolloverStrategy max="2"/></RollingFile>'
    )


def worker_failed(logs: Path) -> bool:
    """Whether a worker could not load its model; TorchServe itself would go on trying for minutes."""
    return any(_FAILURE.search(line) for line in _lines(logs / SERVER))


def story(logs: Path) -> str:
    """What went wrong: the first whole traceback of a worker, else what there is of one, else the last lines that were written."""
    by_worker: dict[str, list[str]] = {}
    for line in _lines(logs / WORKERS):
        _time, _, rest = line.partition(" ")
        worker, _, text = rest.partition(" ")
        by_worker.setdefault(worker, []).append(text)
    found = [traceback for lines in by_worker.values() for process in _processes(lines) if (traceback := _traceback(process))]
    if found:
        return next(filter(is_whole, found), found[0])
    tails = [[text for lines in by_worker.values() for text in lines], _lines(logs / CONSOLE), _lines(logs / SERVER)]
    return "\n".join(next((lines[-_TAIL:] for lines in tails if lines), ["nothing"]))


def is_whole(text: str) -> bool:
    """Whether it is a traceback with its last line, the error."""
    last = text.rstrip().rpartition("\n")[2]
    return text.startswith(_BEGINS) and not last.startswith((" ", _BEGINS)) and last not in (_CHAINED, _CAUSED)


def _processes(lines: list[str]) -> list[list[str]]:
    """What each process of a worker said: TorchServe starts another where one has ended."""
    starts = [i for i, line in enumerate(lines) if line.startswith(_STARTS)]
    return [lines[a:b] for a, b in pairwise([0, *starts, len(lines)])]


def _traceback(lines: list[str]) -> str:
    """From the first traceback to the end, without what hides it; "" if there is none."""
    if _BEGINS not in lines:
        return ""
    found = lines[lines.index(_BEGINS) :]
    if _CHAINED in found and any(line.startswith(_MISLEADING) for line in found):
        found = found[: found.index(_CHAINED)]
    return "\n".join(found).rstrip()


def _lines(path: Path) -> list[str]:
    return path.read_text(errors="replace").splitlines() if path.is_file() else []
