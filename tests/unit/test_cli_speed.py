"""What starts quickly must stay so: what each verb may import, and what completion reads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cowshed.manager.records import Records
from tests.manager_fakes import raw_image
from tests.unit.test_manager_records import record

HEAVY = ("rich", "httpx", "yaml", "pycdlib", "oslo_utils", "isal", "zstandard", "asyncio", "subprocess", "libvirt")


def cowshed(*words: str, state: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The real command; the last line of standard error names the heavy modules it has loaded."""
    code = (
        "import sys\nfrom cowshed.cli import main\n"
        "try:\n    main()\nfinally:\n"
        f"    print(*[name for name in {HEAVY} if name in sys.modules], file=sys.stderr)\n"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        env={**os.environ, "COWSHED_HOST_STATE": str(state), "COWSHED_CONFIG": os.devnull, **environment},
    )


def loaded(done: subprocess.CompletedProcess[str]) -> set[str]:
    return set(done.stderr.splitlines()[-1].split())


def test_version_loads_nothing(tmp_path: Path):
    done = cowshed("--version", state=tmp_path)
    assert done.stdout.startswith("cowshed ")
    assert loaded(done) == set()


@pytest.mark.parametrize(
    "words", [["ls"], ["image", "ls"], ["events"], ["config", "show"], ["show", "nothing"], ["--help"]]
)
def test_looking_loads_little(tmp_path: Path, words: list[str]):
    """No instance: libvirt is not asked either."""
    assert loaded(cowshed(*words, state=tmp_path)) == set()


@pytest.mark.parametrize("link", ["cowshed", "cowshed/config.toml"])
def test_ls_is_not_answered_quickly_where_something_is_configured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], link: str
):
    """Not even by a link that leads nowhere: the usual verb refuses it."""
    from cowshed.cli import quick

    for name in [name for name in os.environ if name.startswith("COWSHED_")] + ["LIBVIRT_DEFAULT_URI"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("COWSHED_HOST_STATE", str(tmp_path / "state"))
    assert quick.ls()
    assert capsys.readouterr().out
    (tmp_path / link).parent.mkdir(exist_ok=True)
    (tmp_path / link).symlink_to("/gone/from/here")
    assert not quick.ls()
    assert not capsys.readouterr().out


@pytest.mark.parametrize("variable", ["COWSHED_HOST_STATE", "HOME"])
def test_ls_is_not_answered_quickly_from_a_place_that_is_relative(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
):
    """The usual verb says what is wrong with it."""
    from cowshed.cli import quick

    for name in [name for name in os.environ if name.startswith("COWSHED_")] + ["LIBVIRT_DEFAULT_URI"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert quick.ls()
    monkeypatch.setenv(variable, "here")
    assert not quick.ls()


def test_ls_is_not_answered_quickly_where_we_may_not_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It was: with an empty table."""
    from cowshed.cli import quick

    def refuse(path: str, **options: object) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(quick, "_ordinary", lambda: True)
    monkeypatch.setattr(quick, "_state", lambda: str(tmp_path))
    assert quick.ls()
    with monkeypatch.context() as patch:
        patch.setattr("os.stat", refuse)
        found = quick.ls()
    assert not found


@pytest.mark.parametrize("note", ["instances/{uuid}/rescue.json", "transit/{uuid}.out.json"])
def test_ls_is_not_answered_quickly_where_an_instance_waits_for_something(
    state: Path, monkeypatch: pytest.MonkeyPatch, note: str
):
    """Under the names that the driver gives to its notes."""
    from cowshed.cli import quick
    from cowshed.config import Config, HostSection
    from cowshed.driver.rooms import Rooms
    from cowshed.driver.steps import placing, transit

    rooms = Rooms(Config(host=HostSection(state=str(state))))
    uuid = Records(state / "cowshed.db").find("db").uuid
    monkeypatch.setattr(quick, "_ordinary", lambda: True)
    monkeypatch.setattr(quick, "_state", lambda: str(state))
    monkeypatch.setattr("cowshed.hypervisor.look.states", dict)
    assert quick.ls()
    path = state / note.format(uuid=uuid)
    path.parent.mkdir(parents=True)
    path.write_text('{"phase": "kept", "here": true}')
    assert placing.rescued(rooms, uuid) or transit.noted(rooms, uuid, transit.Way.OUT)
    assert not quick.ls()


def complete(state: Path, *words: str, shell: str = "bash") -> set[str]:
    line = " ".join(["cowshed", *words])
    done = cowshed(
        state=state,
        _COWSHED_COMPLETE=f"{shell}_complete",
        COMP_WORDS=line,
        COMP_CWORD=str(len(words) if shell != "fish" else words[-1]),
    )
    assert loaded(done) == set()
    return {item.rpartition(",")[2] for item in done.stdout.split()}


@pytest.fixture
def state(tmp_path: Path) -> Path:
    from cowshed import config
    from cowshed.images import pull
    from cowshed.images.directory import DirectoryService

    records = Records(tmp_path / "cowshed.db")
    records.add(record("web", "aaaaaaaa-0000-4000-8000-000000000001"))
    records.add(record("db", "bbbbbbbb-0000-4000-8000-000000000001"))
    service = DirectoryService(tmp_path / "images", config.ImagesSection())
    pull.pull(service, str(raw_image(tmp_path / "x.raw")), name="debian", format=None, digest=None, properties={})
    return tmp_path


def test_completion_of_instances(state: Path):
    assert complete(state, "show", "") == {"web", "db"}
    assert complete(state, "stop", "w") == {"web"}
    assert complete(state, "rm", "web", "") == {"web", "db"}


def test_completion_of_images(state: Path):
    assert complete(state, "run", "") == {"debian"}
    assert complete(state, "image", "show", "d") == {"debian"}
    assert complete(state, "run", "./x") == {"./x"}


def test_completion_of_verbs_and_options(state: Path):
    assert complete(state, "su") == {"suspend"}
    assert complete(state, "image", "p") == {"pull", "prune"}
    assert {"--cpus", "--cmdline", "--connect"} >= complete(state, "run", "--c") >= {"--cpus", "--cmdline"}
    assert complete(state, "ls", "-o", "") == {"table", "json", "yaml"}


def test_completion_survives_a_broken_state(tmp_path: Path):
    (tmp_path / "cowshed.db").write_bytes(b"x" * 5000)
    assert complete(tmp_path, "show", "") == set()
    done = cowshed(
        state=tmp_path,
        _COWSHED_COMPLETE="bash_complete",
        COMP_WORDS="cowshed show ",
        COMP_CWORD="2",
        COWSHED_DISKS_BACKEND="nonsense",
    )
    assert done.stdout.split() == []
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(tmp_path: Path, shell: str):
    done = cowshed("completion", shell, state=tmp_path)
    assert done.returncode == 0
    assert "_COWSHED_COMPLETE" in done.stdout


def test_bash_takes_its_script(state: Path):
    """As a shell would: load the script, ask for words, which bash breaks at colons."""
    from cowshed import config
    from cowshed.images import pull
    from cowshed.images.directory import DirectoryService

    service = DirectoryService(state / "images", config.ImagesSection())
    for name in ("sid:1", "sid:2"):
        pull.pull(service, str(state / "x.raw"), name=name, format=None, digest=None, properties={})
    script = cowshed("completion", "bash", state=state).stdout
    (state / "script").write_text(script)
    (state / "cowshed").write_text(f'#!/bin/sh\nexec {sys.executable} -m cowshed.cli "$@"\n')
    (state / "cowshed").chmod(0o755)
    for line, words, found in (
        ("cowshed show w", "show w", "web"),
        ("cowshed run", "run ''", "debian sid:1 sid:2"),
        ("cowshed run si", "run si", "sid:1 sid:2"),
        ("cowshed  run sid:", "run sid :", "1 2"),
        ("cowshed run sid:2", "run sid : 2", "2"),
        ("cowshed image rm sid:1 si", "image rm sid : 1 si", "sid:1 sid:2"),
    ):
        ask = (
            f"PATH={state}:$PATH; . {state}/script; COMP_WORDBREAKS=' :='; COMP_LINE='{line}'; COMP_WORDS=(cowshed {words}); "
            "COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); read -r _ _ _ _ function _ <<<$(complete -p cowshed); "
            '$function cowshed; echo "${COMPREPLY[@]}"'
        )
        done = subprocess.run(
            ["bash", "-c", ask],
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
            env={**os.environ, "COWSHED_HOST_STATE": str(state), "COWSHED_CONFIG": os.devnull},
        )
        assert done.stdout.split() == found.split(), (line, done.stdout, done.stderr)


def test_nobody_reads(state: Path):
    """`cowshed ls | head -1` is no error."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as out:
        done = subprocess.run(
            [sys.executable, "-m", "cowshed.cli", "config", "show"],
            stdout=out,
            stderr=subprocess.PIPE,
            text=True,
            timeout=50,
            check=False,
            env={**os.environ, "COWSHED_HOST_STATE": str(state), "COWSHED_CONFIG": os.devnull},
        )
    assert (done.returncode, done.stderr) == (0, "")


def test_started_without_streams(state: Path):
    """With standard output closed (``>&-``) the next file opened would be where all that is printed goes."""
    environment = {**os.environ, "COWSHED_HOST_STATE": str(state), "COWSHED_CONFIG": os.devnull}
    for words, closed, silent in (
        ("ls", ">&-", True),
        ("ls", "<&- 2>&-", False),
        ("ls -o json", "<&- >&- 2>&-", True),
        ("ls -o json", "<&- 2>&-", False),
    ):
        script = f"exec {sys.executable} -m cowshed.cli {words} {closed}"
        done = subprocess.run(["sh", "-c", script], capture_output=True, timeout=50, check=False, env=environment)
        assert (done.returncode, done.stderr, not done.stdout) == (0, b"", silent), (closed, words)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this host has no /dev/full")
@pytest.mark.parametrize("words", [["--version"], ["ls"], ["image", "ls"]])
def test_a_result_that_cannot_be_written_is_a_sentence(tmp_path: Path, words: list[str]):
    """Also of what is answered before there is a verb."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("COWSHED_", "LIBVIRT_"))}
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "cowshed.cli", *words],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=50,
            check=False,
            env={**plain, "COWSHED_HOST_STATE": str(tmp_path / "state"), "XDG_CONFIG_HOME": str(tmp_path)},
        )
    assert done.returncode == 8
    assert done.stderr.startswith("cowshed: no space left")
    assert len(done.stderr.splitlines()) == 2


def test_a_letter_that_the_terminal_lacks_is_printed_with_its_number(tmp_path: Path):
    source = raw_image(tmp_path / "bücher.raw")
    done = cowshed("image", "pull", str(source), "--name", "books", state=tmp_path / "state", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr.count("error")) == (0, 0)
    assert "b\\xfccher.raw" in done.stdout
