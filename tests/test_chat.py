"""A conversation in a terminal: what a person sees, in a real process and within this one."""

import numpy as np
import pytest
import soundfile
from rich.console import Console

from modeling_mmgpt.tools import chat
from tests.test_cli import mmgpt, run
from tests.tiny_assistant import RATE
from tests.tiny_classifier import teach_classifier


@pytest.fixture(scope="module")
def talk(assistant):
    """One conversation with everything in it, good and bad, and what came out."""
    media = assistant.parent
    (media / "text.png").write_text("not an image")
    (media / "broken.png").write_bytes((media / "red.png").read_bytes()[:60])
    soundfile.write(media / "empty.wav", np.zeros(0, dtype=np.float32), RATE)
    lines = [
        "Colour?",
        "/clear",
        "Once",
        f"/image {media / 'text.png'}",
        f"/image {media / 'broken.png'}",
        "/image ftp://example.org/a.png",
        f"/image {media / 'nowhere.png'}",
        f"/image {media / 'bomb.png'}",
        f"/audio {media / 'empty.wav'}",
        f"/image {media}",
        "/image",
        "/what",
        "word " * 200,
        "/clear",
        f"/image '{media / 'blue.png'}'",
        "Describe the picture.",
        "/clear",
        f"/audio {media / 'high.wav'}",
        "Heard?",
        "/exit",
        "In French: cat",
    ]
    return mmgpt("chat", assistant, "--image", media / "red.png", "--device", "cpu", said="\n".join(lines))


class TestChat:
    def test_answers_with_media_of_the_command_line_and_of_later_turns(self, talk):
        assert talk.returncode == 0, talk.stderr
        assert all(f"> {answer}\n" in talk.stdout for answer in ("red", "upon", "a blue one", "high"))

    def test_bad_input_is_named_and_the_conversation_goes_on(self, talk):
        errors = [line for line in talk.stderr.splitlines() if line.startswith("Error:")]
        expected = [
            "is not an image that can be read",
            "broken.png is damaged",
            "cannot open 'ftp://example.org/a.png'",
            "there is no file",
            "10000 x 10000 pixels, more than the 89,478,485",
            "is empty: it has no samples",
            "there is no file",
            "Name a file or a URL: /image FILE",
            "reads at most 256",
        ]
        assert len(errors) == len(expected)
        assert all(words in error for words, error in zip(expected, errors, strict=True))
        assert "Traceback" not in talk.stderr

    def test_help_and_the_end(self, talk):
        assert "/audio FILE" in talk.stdout
        assert "chat" not in talk.stdout, "what comes behind /exit is not answered"

    def test_the_end_of_input_ends_it(self, assistant):
        done = run("chat", assistant, said="Once")
        assert done.exit_code == 0 and "upon" in done.stdout


class TestSession:
    @pytest.fixture
    def session(self, assistant):
        return chat.Session(str(assistant), "cpu", "auto")

    def test_turns_build_on_one_another(self, session):
        session.say("Once", {"max_new_tokens": 8})
        session.say("In French: cat", {"max_new_tokens": 8})
        assert [message["role"] for message in session.messages] == ["user", "assistant"] * 2
        assert session.messages[1]["content"] == "upon"

    def test_an_image_is_encoded_once_in_a_conversation(self, session, assistant):
        encoded = []
        session.model.model.vision_tower.register_forward_hook(lambda *call: encoded.append(len(call[-1][0])))
        session.attach("image", str(assistant.parent / "red.png"))
        session.say("Colour?", {"max_new_tokens": 8})
        session.say("Once", {"max_new_tokens": 8})
        session.attach("image", str(assistant.parent / "blue.png"))
        session.say("Once", {"max_new_tokens": 8})
        assert encoded == [1, 1]

    def test_what_could_not_be_answered_is_forgotten(self, session, assistant):
        session.attach("image", str(assistant.parent / "red.png"))
        with pytest.raises(ValueError, match="reads at most"):
            session.say("word " * 200, {})
        assert session.messages == [] and len(session.waiting) == 1
        assert session.say("Colour?", {"max_new_tokens": 8}) == "red"
        assert session.waiting == []

    def test_an_interrupted_answer_is_forgotten(self, session, monkeypatch):
        def interrupt(*args, **kwargs):
            raise KeyboardInterrupt

        monkeypatch.setattr(session.model, "generate", interrupt)
        chat.respond(session, "Once", {})
        assert session.messages == []

    def test_a_system_message_stays(self, assistant):
        session = chat.Session(str(assistant), "cpu", "auto", system="Be brief.")
        session.say("Once", {"max_new_tokens": 2})
        session.clear()
        assert session.messages == [{"role": "system", "content": "Be brief."}]

    def test_a_terminal_shows_markdown(self, session, monkeypatch):
        monkeypatch.setattr(chat, "console", Console(force_terminal=True, width=60, record=True))
        speaker = chat.Speaker(session.tokenizer)
        speaker.on_finalized_text("**bold** and ")
        speaker.on_finalized_text("plain", stream_end=True)
        text = chat.console.export_text()
        assert "bold and plain" in text and "**" not in text


def test_a_guard_withholds_questions_and_answers_before_they_are_shown(assistant, tmp_path, capsys):
    """Of a classifier of texts in a folder, as the command line names it."""
    folder = teach_classifier(tmp_path / "guard")
    guard = ("--guard", folder, "--guard-label", "rude")
    said = "\n".join(["you stupid fool", "Once", "In French: the dog", "/exit"])
    done = run("chat", assistant, *guard, said=said)
    assert done.exit_code == 0, done.output
    answers = [line.removeprefix("> ") for line in done.stdout.splitlines()[1:]]
    assert answers[:2] == ["The answer was withheld (rude).", "upon"]
    assert run("generate", assistant, "shut up", *guard).stdout == "The answer was withheld (rude).\n"
    wrong = run("generate", assistant, "Once", "--guard", folder)
    assert wrong.exit_code == 1 and "name those to withhold, of ['friendly', 'rude']" in wrong.stderr


def test_a_withheld_answer_is_not_remembered(assistant):
    session = chat.Session(str(assistant), "cpu", "auto", guard=lambda text, images: "chat" in text)
    settings = chat.generation_settings(24, 0, None)
    assert session.say("In French: cat", settings) == "The answer was withheld." and session.messages == []
    assert session.say("Once", settings) == "upon" and len(session.messages) == 2
