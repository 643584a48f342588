r"""The one sample format: conversations with their media as undecoded file bytes.

    {"id": "0_george_5", "task": "fsdd", "metric": None,
     "messages": [{"role": "user", "content": [{"type": "audio", "text": None}, {"type": "text", "text": "Which digit?"}]},
                  {"role": "assistant", "content": [{"type": "text", "text": "7"}]}],
     "references": [], "images": [], "audios": [{"bytes": b"RIFF...", "path": None}]}

Media stand in `images`, `audios` and `videos` in the order of their items in the messages. They stay bytes until the collator
decodes a batch: a data set of thousands of clips is then a few megabytes of memory.

Plain text is a conversation of one assistant turn. `references` are all right answers, where there are several; `metric` is
the name of what judges the answers (training/evaluation/metrics), exact match where it is None.
"""

import logging
from pathlib import Path

from datasets import Dataset, Features, List, Value

from training.recipe_files import CONFIGURATION


logger = logging.getLogger(__name__)

NO_ANSWER = "unanswerable"  # the answer where a text does not hold one
MEDIUM = {"bytes": Value("binary"), "path": Value("string")}
MEDIA = ("images", "audios", "videos")
ITEM = {"type": Value("string"), "text": Value("string")}
FEATURES = Features(
    {
        "id": Value("string"),
        "task": Value("string"),
        "metric": Value("string"),
        "messages": List({"role": Value("string"), "content": List(ITEM)}),
        "references": List(Value("string")),
        "images": List(MEDIUM),
        "audios": List(MEDIUM),
        "videos": List(MEDIUM),
    }
)
NAMED_IN_LOG = 5  # of what is left out, before it is named ever more rarely
FINAL_MARK = "####"  # between the reasoning of an answer and its result, as in GSM8K


class MissingData(FileNotFoundError):
    """The files of a recipe are not there."""


class DataError(ValueError):
    """Something is wrong with the data: what, where, and the way out."""


class LeftOut:
    """Samples and files that cannot be used: each is named once in the log, and counted."""

    def __init__(self):
        self.names: set[str] = set()
        self.told = 0

    def add(self, name: str, problem: str) -> None:
        if name in self.names:  # it comes again in the next pass
            return
        self.names.add(name)
        if len(self.names) <= NAMED_IN_LOG:
            logger.warning("left out: %s", problem)
        elif len(self.names) & (len(self.names) - 1) == 0:  # a million of them are no log of a million lines
            logger.warning("left out, %d by now: %s", len(self.names), problem)

    def new(self) -> int:
        """How many since this was asked last."""
        before, self.told = self.told, len(self.names)
        return self.told - before


def make_dataset(samples: list[dict]) -> Dataset:
    """Samples with all columns present, so that data sets of any kind can be mixed."""
    return Dataset.from_list([complete_sample(sample) for sample in samples], features=FEATURES)


def complete_sample(sample: dict) -> dict:
    """The sample with every column of the sample format."""
    empty = {"id": None, "task": None, "metric": None, "messages": [], "references": []}
    return empty | {kind: [] for kind in MEDIA} | sample


def user_turn(text: str, media: tuple[str, ...] = ()) -> dict:
    """A question: first the media, named by kind ("image", "audio", "video"), then the text."""
    items = [{"type": kind, "text": None} for kind in media]
    return {"role": "user", "content": [*items, {"type": "text", "text": text}]}


def assistant_turn(text: str) -> dict:
    """An answer."""
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}


def medium(data: bytes) -> dict:
    """The bytes of an image, audio or video file."""
    return {"bytes": data, "path": None}


def text_of(message: dict) -> str:
    """The text of a message, whether its content is a string or a list of items."""
    content = message["content"]
    if isinstance(content, str):
        return content
    return "".join(item["text"] for item in content if item["type"] == "text")


def whole_text(sample: dict) -> str:
    """The text of all turns, a line each: of a document that has no questions, its text."""
    return "\n".join(text_of(message) for message in sample["messages"])


def answer_of(sample: dict) -> str:
    """The text of the last assistant turn: the reference of an evaluation."""
    last = sample["messages"][-1]
    if last["role"] != "assistant":
        raise ValueError(
            f"sample {sample.get('id')!r} ends with a {last['role']} turn: there is no answer to compare with."
        )
    return text_of(last).strip()


def references_of(sample: dict) -> list[str]:
    """All right answers of an evaluation: `references`, or the text of the last assistant turn."""
    return list(sample.get("references") or []) or [answer_of(sample)]


def find_files(name: str | Path, root: Path) -> list[Path]:
    """The file, the folder or the files of a pattern; relative names start at `root`."""
    path = root / name
    if path.exists():
        return [path]
    found = sorted(path.parent.glob(path.name)) if any(sign in path.name for sign in "*?[") else []
    if not found:
        raise MissingData(f"{path} does not exist: {way_to_fetch(name, root)}name its folder with data.root=FOLDER.")
    return found


def way_to_fetch(name: str | Path, root: Path) -> str:
    """The command for a data set that training/data/fetch.py knows, or nothing."""
    data_set = Path(name).parts[0]
    if not (CONFIGURATION / "datasets" / f"{data_set}.yaml").is_file():
        return ""
    elsewhere = "" if root == Path("data") else f" --root {root}"
    return f"`python -m training.data.fetch {data_set}{elsewhere}` brings the data set; or "
