"""transformers' own test suites: from the source distribution of the installed release, unpacked beside the repository's code.

The source distribution has the files of `tests/` but none of its folders. What the suites import from there stands in
`stand_ins/`, under the names it has in transformers' repository. Everything lands in `.cache/conformance/`, which git ignores:

    .cache/conformance/transformers-5.24.0/transformers_tests/    tests/ of the release, with the stand-ins
    .cache/conformance/transformers-5.24.0/utils/                 stand-ins for utils/ of the repository
"""

import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import transformers


HERE = Path(__file__).parent
CACHE = HERE.parents[1] / ".cache" / "conformance"


def download(version: str, folder: Path) -> Path:
    """The source distribution of transformers `version`, through pip and so through whatever index pip is set up for."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
    subprocess.run([*command, "--dest", str(folder), f"transformers=={version}"], check=True, timeout=300)
    return next(folder.glob("*.tar.gz"))


def unpack(archive: Path, place: Path) -> None:
    """`tests/` of the archive as the package `transformers_tests` in `place`, whole or not at all."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent) as temporary, tarfile.open(archive) as opened:
        members = [member for member in opened.getmembers() if member.name.split("/")[1:2] == ["tests"]]
        opened.extractall(temporary, members=members, filter="data")
        unpacked = next(Path(temporary).glob("*/tests"))
        (unpacked.parent / "transformers_tests").unlink(missing_ok=True)
        unpacked = unpacked.rename(unpacked.parent / "transformers_tests")
        shutil.rmtree(place, ignore_errors=True)
        unpacked.parent.rename(place)


def fetch(version: str = transformers.__version__) -> Path:
    """The folder to put on `sys.path` for `import transformers_tests`; downloaded at first use."""
    place = CACHE / f"transformers-{version}"
    if not (place / "transformers_tests").is_dir():
        with tempfile.TemporaryDirectory() as temporary:
            unpack(download(version, Path(temporary)), place)
    shutil.copytree(HERE / "stand_ins" / "tests", place / "transformers_tests", dirs_exist_ok=True)
    shutil.copytree(HERE / "stand_ins" / "utils", place / "utils", dirs_exist_ok=True)
    return place


if __name__ == "__main__":
    print(fetch())
