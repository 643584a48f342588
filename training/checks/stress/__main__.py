r"""Bad days of a training run, one by one on tiny runs: each case says right or wrong, and why.

    python -m training.checks.stress                       # all of them: `make stress`
    python -m training.checks.stress --only kills,damage
    python -m training.checks.stress --case optimizer.pt --keep /tmp/stress    # those with this in their names; what is wrong stays there

kills          killed or stopped at any moment, the run ends with the bits of one that was not
damage         a damaged checkpoint is passed over, by name; without another one the run stops
two_runs       the second run in a folder is refused
full_disk      a full disk is told, and costs nothing that was whole
not_finite     NaN stops the run, names the samples and reaches no checkpoint
changing_data  data that vanish, change or are damaged are named

Exit status 0 where nothing is wrong. Everything runs on the CPU, offline, on data that are made for it.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from training.checks.stress import changing_data, damage, full_disk, kills, not_finite, two_runs
from training.checks.stress.judging import Case
from training.checks.stress.runs import Runs, Wrong


TRAINING = {
    "kills": kills,
    "damage": damage,
    "two_runs": two_runs,
    "full_disk": full_disk,
    "not_finite": not_finite,
    "changing_data": changing_data,
}
# Programs of their own, which print what they find: module, arguments, arguments with --quick.
PROGRAMS: dict[str, tuple[str, list[str], list[str]]] = {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    groups = [*TRAINING, *PROGRAMS]
    parser.add_argument("--only", type=lambda text: text.split(","), default=groups, help=f"of {', '.join(groups)}")
    parser.add_argument("--case", default="", help="only cases with this in their names")
    parser.add_argument("--quick", action="store_true", help="one or two cases of each group")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs at a time")
    kept = (
        "an empty folder to work in, where cases that are wrong stay; what each run printed stands in its runs/asides"
    )
    parser.add_argument("--keep", type=Path, help=kept)
    arguments = parser.parse_args()
    unknown = [name for name in arguments.only if name not in groups]
    if unknown:
        parser.error(f"--only {unknown[0]}: it is one of {', '.join(groups)}")
    if arguments.keep is not None and arguments.keep.exists() and any(arguments.keep.iterdir()):
        parser.error(f"--keep {arguments.keep}: it is not empty")
    with tempfile.TemporaryDirectory(prefix="stress-") as folder:
        counts = stress(arguments, (arguments.keep or Path(folder)).absolute())
    for group, (right, wrong) in counts.items():
        print(f"{group:14} {right} right, {wrong} wrong")
    sys.exit(any(wrong for _, wrong in counts.values()))


def stress(arguments: argparse.Namespace, folder: Path) -> dict[str, tuple[int, int]]:
    """Runs the chosen cases, prints each, and returns how many of each group are right and wrong."""
    (folder / "runs").mkdir(parents=True)
    counts = {}
    runs = Runs(folder / "runs")
    for group in arguments.only:
        if group in PROGRAMS:
            counts[group] = run_program(group, arguments.quick)
            continue
        cases = [one for one in TRAINING[group].cases(runs, arguments.quick) if arguments.case in one.name]
        with ThreadPoolExecutor(arguments.jobs) as pool:
            results = list(pool.map(partial(run_case, group, folder / group), range(len(cases)), cases))
        counts[group] = results.count(True), results.count(False)
    return counts


def run_case(group: str, folder: Path, number: int, case: Case) -> bool:
    begun, place = time.monotonic(), folder / str(number)
    place.mkdir(parents=True)
    try:
        case.check(place)
        wrong = None
    except Wrong as error:
        wrong = str(error)
    except Exception as error:  # the check itself: it has not shown that the case is right
        wrong = f"{type(error).__name__}: {error}"
    seconds = time.monotonic() - begun
    line = f"{group:14} {'right' if wrong is None else 'WRONG'} {seconds:5.1f} s  {case.name}"
    print(line if wrong is None else f"{line}\n{'':30}{wrong} [{group}/{number}]", flush=True)
    if wrong is None:
        shutil.rmtree(place)
    return wrong is None


def run_program(group: str, is_quick: bool) -> tuple[int, int]:
    """Right or wrong by its exit status."""
    module, arguments, quick = PROGRAMS[group]
    ended = subprocess.run([sys.executable, "-m", module, *(quick if is_quick else arguments)])
    print(f"{group:14} {'right' if ended.returncode == 0 else 'WRONG'}  {module}", flush=True)
    return int(ended.returncode == 0), int(ended.returncode != 0)


if __name__ == "__main__":
    main()
