"""Files through the agent: what its words mean. The agent is played."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from cowshed.errors import DataCorrupt, HypervisorError, InvalidRequest
from cowshed.hypervisor import agent, agent_files


class Agent:
    """Linux opens a directory and refuses to read it, and refuses to open it for writing. ``closed`` counts."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        self.closed = 0

    def command(self, name: str, arguments: dict[str, Any], **options: Any) -> Any:
        if name == "guest-file-close":
            self.closed += 1
        elif name == "guest-file-open" and arguments["mode"] == "r":
            return 7
        else:
            raise HypervisorError(action=name, reason=self.reason, number=1)
        return {}


@pytest.mark.parametrize("write", [False, True])
def test_a_directory_is_no_file(write: bool) -> None:
    agent: Any = Agent("failed to read file: Is a directory")
    with pytest.raises(InvalidRequest, match="/etc in the guest is a directory") as caught:
        if write:
            agent_files.write(agent, "/etc", io.BytesIO(b"x"))
        else:
            agent_files.read(agent, "/etc", io.BytesIO(), limit=10)
    assert "tar" in str(caught.value.hint)
    assert agent.closed == (not write)


def test_what_has_no_end_is_cut_off() -> None:
    written: list[str] = []

    class Listening:
        def command(self, name: str, arguments: dict[str, Any], **options: Any) -> Any:
            written.append(name)
            return {"guest-file-open": 7, "guest-file-write": {"count": agent_files.PIECE}}.get(name, {})

    agent: Any = Listening()
    with Path("/dev/zero").open("rb") as endless, pytest.raises(InvalidRequest, match="larger than 96 KiB"):
        agent_files.write(agent, "/x", endless, limit=2 * agent_files.PIECE)
    assert written == ["guest-file-open", "guest-file-write", "guest-file-write", "guest-file-close"]


def test_other_words_stay_as_they_are() -> None:
    agent: Any = Agent("failed to read file: Input/output error")
    with pytest.raises(HypervisorError, match="Input/output error"):
        agent_files.read(agent, "/x", io.BytesIO(), limit=10)


@pytest.mark.parametrize(
    ("words", "input"), [(["wc", "-c"], agent_files.GIVEN), (["echo", "x" * agent_files.GIVEN], 0)]
)
def test_more_than_a_message_holds_is_refused_before_the_agent_hears_of_it(words: list[str], input: int) -> None:
    """The agent would not answer, also others, for seconds."""
    with pytest.raises(
        InvalidRequest, match=f"^{words[0]} in the guest can be given 128 KiB of words and input"
    ) as caught:
        agent_files.execute(None, words, input=b"x" * input)  # type: ignore[arg-type]
    assert "cowshed cp" in str(caught.value.hint)


def test_a_program_of_which_the_agent_says_nonsense() -> None:
    class Nonsense:
        def command(self, name: str, arguments: dict[str, Any], **options: Any) -> Any:
            return {"pid": 7} if name == "guest-exec" else ["exited"]

    playing: Any = Nonsense()
    with pytest.raises(DataCorrupt, match="exited"):
        agent_files.execute(playing, ["true"])


@pytest.mark.parametrize(("word", "seconds"), [("addresses", agent.TIMEOUT), ("set_password", agent.CHANGING)])
def test_an_agent_that_libvirt_speaks_with_has_seconds_for_its_answer(word: str, seconds: int) -> None:
    said: list[Any] = []

    class Domain:
        def agentSetResponseTimeout(self, seconds: int, flags: int) -> None:
            said.append(seconds)

        def interfaceAddresses(self, source: int, flags: int) -> dict[str, Any]:
            said.append("addresses")
            return {}

        def setUserPassword(self, user: str, password: str, flags: int) -> None:
            said.append("set_password")

    class Guest:
        def call(self, action: str, function: Any) -> Any:
            return function(Domain())

    guest: Any = Guest()
    getattr(agent.Agent(guest), word)(*(["root", "x"] if word == "set_password" else []))
    assert said == [seconds, word]
