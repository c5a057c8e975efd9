"""The command's verbs on a pretended driver: what is printed, asked, refused, and every exit code."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cowshed import errors
from cowshed.cli import app, explain
from cowshed.model.host import Finding
from cowshed.model.instance import PowerState
from tests.manager_fakes import PretendDriver, raw_image

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Result:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Command:
    """Runs ``cowshed WORDS`` in this process."""

    def __init__(self, capfd: pytest.CaptureFixture[str], drivers: list[PretendDriver]) -> None:
        self._capfd = capfd
        self._drivers = drivers
        self.power: dict[str, PowerState] = {}
        self.saved: set[str] = set()
        self.fail: dict[str, BaseException] = {}
        self.findings: list[Finding] = []

    def __call__(self, *words: object) -> Result:
        self._capfd.readouterr()
        code = app.run([str(word) for word in words])
        return Result(code, *self._capfd.readouterr())

    @property
    def driver(self) -> PretendDriver:
        return self._drivers[-1]


@pytest.fixture
def cowshed(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Command]:
    drivers: list[PretendDriver] = []
    command = Command(capfd, drivers)

    def make(**options: Any) -> PretendDriver:
        driver = PretendDriver(**options)
        driver.power, driver.saved, driver.fail = command.power, command.saved, command.fail
        driver.findings = command.findings
        drivers.append(driver)
        return driver

    monkeypatch.setattr("cowshed.driver.LibvirtDriver", make)
    monkeypatch.setenv("COWSHED_HOST_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("COWSHED_CONFIG", str(tmp_path / "config.toml"))
    (tmp_path / "config.toml").write_text("")
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield command
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def tiny(cowshed: Command, tmp_path: Path) -> Path:
    path = raw_image(tmp_path / "tiny.raw")
    assert cowshed("image", "pull", path, "--name", "tiny").code == 0
    return path


@pytest.fixture
def web(cowshed: Command, tiny: Path) -> str:
    assert cowshed("run", "tiny", "--name", "web").code == 0
    return "web"


def refused(result: Result, code: int, *words: str) -> None:
    """One sentence, what to do, nothing on standard output, no trace."""
    assert result.code == code, result.err
    assert result.out == ""
    assert "Traceback" not in result.err
    assert result.err.startswith("cowshed: ")
    assert len(result.err.splitlines()) <= 2, result.err
    for word in words:
        assert word in result.err


# --- exit codes ---------------------------------------------------------------------------------------------------------

FIELDS = {
    "reason": "r", "source": "s", "image": "i", "subject": "s", "algorithm": "sha256", "expected": "a", "actual": "b",
    "disk": "d", "size": 1, "needed": 2, "kind": "k", "name": "n", "state": "s", "action": "a", "port": 1,
    "address": "a", "operation": "o", "what": "w", "seconds": 1.0, "holder": "h", "place": "p", "free": 0, "path": "p",
    "tool": "t", "command": "c", "status": 1, "output": "o", "uri": "u", "url": "u",
}  # fmt: skip


def all_errors(kind: type[errors.CowshedError] = errors.CowshedError) -> Iterator[type[errors.CowshedError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from all_errors(child)


@pytest.mark.parametrize("kind", sorted(set(all_errors()), key=lambda kind: kind.__name__))
def test_every_error_is_one_sentence_with_a_documented_code(cowshed: Command, kind: type[errors.CowshedError]):
    cowshed.fail["power_states"] = kind(hint="do that", **FIELDS)
    cowshed.fail["spawn"] = cowshed.fail["power_states"]
    result = cowshed("image", "ls")
    assert result.code == 0  # needs no libvirt
    code = explain.explain(cowshed.fail["spawn"])
    assert code == kind.exit_code
    assert code in explain.EXIT_CODES


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.HypervisorError(action="x", reason="y"), 1),
        (errors.InvalidRequest(reason="y"), 2),
        (errors.ImageNotFound(name="y"), 3),
        (errors.PortInUse(port=22, address="::"), 4),
        (errors.PermissionDenied(action="open", path="/run/socket"), 5),
        (errors.UnsupportedOperation(subject="raw", operation="x", reason="y"), 6),
        (errors.DeadlineExceeded(what="x", seconds=3), 7),
        (errors.NoSpace(place="/", needed=5, free=1), 8),
        (errors.HypervisorUnavailable(uri="u", reason="y"), 8),
        (errors.ToolMissing(tool="qemu-img"), 8),
        (KeyboardInterrupt(), 130),
        (errors.Interrupted(what="x"), 130),
        (PermissionError(13, "Permission denied", "/x"), 5),
        (OSError(28, "No space left on device", "/x"), 8),
        (OSError(5, "Input/output error", "/x"), 1),
        (ZeroDivisionError("oh"), 1),
    ],
)
def test_exit_codes(cowshed: Command, tiny: Path, error: BaseException, code: int):
    cowshed.fail["spawn"] = error
    result = cowshed("run", "tiny", "--name", "web")
    assert result.code == code
    assert result.out == ""
    assert "Traceback" not in result.err
    assert len(result.err.splitlines()) in (1, 2, 3)
    cowshed.fail.clear()
    assert cowshed("ls", "-q").out == ""


# --- names ----------------------------------------------------------------------------------------------------------------


def test_an_instance_is_told_of_by_its_name(cowshed: Command, web: str, capfd: pytest.CaptureFixture[str]):
    """What knows only UUIDs (a disk, a lock) writes those; a person knows the name."""
    (uuid,) = cowshed.power
    for error, sentence in (
        (errors.NameTaken(kind="snapshot", name=f"a of disk of instance {uuid}"), "a of disk of instance web exists"),
        (errors.Busy(what=f"the migration of {uuid.upper()}", holder="1"), "the migration of web is locked"),
        (
            errors.HypervisorError(action="x", reason="y", hint=f"see where {uuid} runs, then remove it"),
            "where web runs",
        ),
    ):
        explain.explain(error)
        told = capfd.readouterr().err
        assert sentence in told
        assert uuid not in told.lower()


def test_a_place_keeps_its_uuid(cowshed: Command, web: str, capfd: pytest.CaptureFixture[str]):
    (uuid,) = cowshed.power
    for text in (
        f"/state/instances/{uuid}/disk", f"vg0/{uuid}_disk", f"web ({uuid})", f"transit-{uuid}.in", f"{uuid}.json",
        f"no domain with matching uuid '{uuid}'",
    ):  # fmt: skip
        explain.explain(errors.HypervisorError(action="x", reason=text))
        assert text in capfd.readouterr().err


def test_an_instance_that_has_gone_is_told_of_by_its_name(
    cowshed: Command, web: str, capfd: pytest.CaptureFixture[str]
):
    (uuid,) = cowshed.power
    assert cowshed("rm", "web", "--yes").code == 0
    explain.explain(errors.NotFound(kind="disk", name=f"d of instance {uuid}"))
    assert "d of instance web does not exist" in capfd.readouterr().err


def test_what_cannot_be_looked_up_stays_as_it_is(cowshed: Command, capfd: pytest.CaptureFixture[str], tmp_path: Path):
    unknown = "0d3fa0a6-3c3e-44c0-9d4c-92e1ae1d1b6e"
    explain.explain(errors.InstanceNotFound(name=unknown))
    assert f"instance {unknown} does not exist" in capfd.readouterr().err
    (tmp_path / "config.toml").write_text("nonsense")
    explain.explain(errors.InstanceNotFound(name=unknown))
    assert f"instance {unknown} does not exist" in capfd.readouterr().err


def test_a_domain_that_has_gone_is_made_again_by_start(cowshed: Command, web: str):
    (uuid,) = cowshed.power
    for name in (uuid, "web"):
        cowshed.fail["pause"] = errors.InstanceNotFound(name=name)
        refused(cowshed("pause", "web"), 3, "instance web does not exist", "cowshed start web")


def test_success_is_0(cowshed: Command):
    assert cowshed("ls").code == 0


def test_help_explains_the_codes(cowshed: Command):
    rows = cowshed("help", "exit-codes", "-o", "json").json["exit_codes"]
    assert {row["code"] for row in rows} == {0, 1, 2, 3, 4, 5, 6, 7, 8, 130}
    assert "Exit codes: 0 ok" in cowshed("--help").out


def test_bug_says_how_to_see_the_trace(cowshed: Command, tiny: Path, monkeypatch: pytest.MonkeyPatch):
    cowshed.fail["spawn"] = ZeroDivisionError("oh")
    result = cowshed("run", "tiny")
    assert "unexpected error: ZeroDivisionError: oh" in result.err
    assert "COWSHED_DEBUG=1" in result.err
    for words in (("--debug", "run", "tiny"), ("run", "tiny", "--debug")):
        assert "Traceback" in cowshed(*words).err
    monkeypatch.setenv("COWSHED_DEBUG", "1")
    assert "Traceback" in cowshed("run", "tiny").err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["lss"], "there is no verb 'lss'; did you mean ls?"),
        (["run"], "there is nothing to boot from"),
        (["run", "tiny", "--cpus", "two"], "'two' is not a valid integer"),
        (["ls", "-o", "xml"], "'xml' is not one of"),
        (["ls", "--nonsense"], "--nonsense"),
        (["run", "tiny", "--property", "x"], "'x' is not KEY=VALUE"),
        (["run", "tiny", "--limit", "disk_read_iops=5"], "did you mean disk_read_iops_sec?"),
        (["run", "tiny", "--limit", "iops=5"], "unknown limit iops"),
        (["run", "tiny", "--limit", "cpu_share=5"], "did you mean cpu_shares?"),
        (["image", "pull", "x", "--sha256", "a", "--sha512", "b"], "not both"),
        (["image", "pull", "x", "--format", "vmdk"], "'vmdk' is not one of"),
        (["log", "web", "--timeout", "5s"], "--timeout limits waiting"),
        (["log", "web", "-f", "-o", "json"], "is shown as it comes"),
        (["log", "web", "--until", "up", "-o", "yaml"], "is shown as it comes"),
        (["wait", "web", "--timeout", "soon"], "is not a duration"),
        (["stop", "web", "db", "--timeout", "soon"], "is not a duration"),
        (["restart", "web", "db", "--timeout", "soon"], "is not a duration"),
        (["restart", "web", "--hard", "--timeout", "5s"], "--hard does not ask the guest"),
        (["stop", "web", "--force", "--timeout", "5s"], "--force does not ask the guest"),
        (["stats", "--interval", "5s"], "add --watch"),
        (["host", "drain", "--to", "cow-b", "--end"], "--end moves no instance"),
        (["volume", "attach", "web", "nbd://store/data", "--user", "joe"], "takes no user"),
        (["run", "tiny", "--volume", "nbd://store/data,user=joe"], "takes no user"),
        (["run", "tiny", "--wait", "lunch"], "cannot wait for 'lunch'"),
        (["run", "tiny", "--wait", "ssh"], "nothing would lead from this host to its ssh server"),
        (["run", "tiny", "--wait", "ssh", "--network", "none"], "nothing would lead"),
        (["run", "tiny", "--wait", "ssh", "-p", "8080:80", "-p", "2222:22/udp"], "nothing would lead"),
        (["run", "tiny", "--wait", "address", "--network", "none"], "an address would be waited for in vain"),
        (["run", "tiny", "--timeout", "soon"], "is not a duration"),
        (["run", "tiny", "--timeout", "5s"], "add --wait"),
        (["image", "frobnicate"], "frobnicate"),
        (["help", "everything"], "there is no verb 'everything'"),
    ],
)
def test_usage(cowshed: Command, web: str, words: list[str], said: str):
    refused(cowshed(*words), 2, said)
    assert cowshed("ls", "-q").out == "web\n"


def test_warnings_are_sentences_and_details_are_for_who_asks(cowshed: Command, web: str):
    from cowshed import log

    assert cowshed("ls").code == 0
    with log.about("web"):
        log.logger("cowshed.driver.power").warning("the guest did not shut down")
    assert cowshed._capfd.readouterr().err == "cowshed: [web] the guest did not shut down\n"
    assert cowshed("ls", "-v").code == 0
    with log.about("web"):
        log.logger("cowshed.driver.power").warning("the guest did not shut down")
    assert " WARNING cowshed.driver.power: [web] the guest" in cowshed._capfd.readouterr().err


def test_no_words_show_the_help(cowshed: Command):
    result = cowshed()
    assert result.code == 2
    assert result.err.startswith("Usage: cowshed")


@pytest.mark.parametrize("verb", [[], *([name] for name in app.VERBS), ["image", "pull"], ["config", "show"]])
def test_every_verb_has_help(cowshed: Command, verb: list[str]):
    result = cowshed(*verb, "--help")
    assert result.code == 0
    assert result.out.startswith("Usage: cowshed")
    assert result.err == ""


@pytest.mark.parametrize(("alias", "verb"), app.ALIASES.items())
def test_aliases(cowshed: Command, alias: str, verb: str):
    assert cowshed(alias, "--help").out.splitlines()[2:] == cowshed(verb, "--help").out.splitlines()[2:]


# --- run ----------------------------------------------------------------------------------------------------------------


def test_run_hands_everything_on(cowshed: Command, tiny: Path, tmp_path: Path):
    key, user = tmp_path / "id.pub", tmp_path / "cloud.yaml"
    key.write_text("ssh-ed25519 AAAA me\n")
    user.write_text("#cloud-config\n")
    result = cowshed(
        "run", "tiny", "--name", "web", "--cpus", 2, "--memory", "512M", "--disk", "20GiB", "--ssh-key", key,
        "--user-data", user, "--network", "user", "-p", "127.0.0.2:42022:22", "--backend", "raw", "--ephemeral", "1G",
        "--swap", "256M", "--firmware", "uefi", "--machine", "pc", "--disk-bus", "scsi", "--datasource", "configdrive",
        "--property", "hw_video_model=vga", "--limit", "disk_read_iops_sec=5", "--hostname", "inside",
        "--encrypt", "--limit", "disk_total_iops_sec@swap=9",
    )  # fmt: skip
    assert result.code == 0, result.err
    assert result.out == "web is running\n  127.0.0.2:42022 leads to its port 22/tcp\n"
    instance, image, vifs = cowshed.driver.spawned
    flavor = instance.flavor
    assert (flavor.vcpus, flavor.memory, flavor.root) == (2, 512 << 20, 20 << 30)
    assert instance.encrypt is True
    assert (flavor.ephemeral, flavor.swap) == (1 << 30, 256 << 20)
    assert flavor.extra_specs == {"quota:disk_read_iops_sec": "5", "quota:disk_total_iops_sec@swap": "9"}
    assert (instance.backend, instance.hostname, instance.key_data) == ("raw", "inside", "ssh-ed25519 AAAA me")
    assert instance.system_metadata == {"datasource": "configdrive"}
    assert image.properties["hw_firmware_type"] == "uefi"
    assert image.properties["hw_machine_type"] == "pc"
    assert image.properties["hw_disk_bus"] == "scsi"
    assert image.properties["hw_video_model"] == "vga"
    assert vifs[0].forwards[0].host_port == 42022


def test_run_says_it_in_json(cowshed: Command, tiny: Path):
    shown = cowshed("run", "tiny", "--name", "web", "-o", "json").json
    assert shown["schema_version"] == 1
    assert shown["instance"]["state"] == "running"
    assert shown["instance"]["created"] > 0


def test_run_quiet_prints_the_name(cowshed: Command, tiny: Path):
    assert cowshed("run", "tiny", "--name", "web", "-q").out == "web\n"


def test_run_that_waited_in_vain_goes_on_running(cowshed: Command, tiny: Path):
    result = cowshed("run", "tiny", "--name", "web", "--wait", "log:up", "--timeout", "50ms")
    assert result.code == 7
    assert "web was started and is not removed" in result.err
    assert cowshed("ls", "-q").out == "web\n"


def test_run_waits(cowshed: Command, tiny: Path, tmp_path: Path):
    (tmp_path / "state" / "web.log").write_bytes(b"it is up\n")
    assert cowshed("run", "tiny", "--name", "web", "--wait", "log:is up").code == 0


@pytest.mark.parametrize(
    "words", [["-p", "0:22"], ["--network", "default"], ["--network", "user", "--network", "default"]]
)
def test_run_waits_for_ssh_where_something_may_lead_to_it(cowshed: Command, tiny: Path, words: list[str]):
    assert cowshed("run", "tiny", "--name", "web", "--wait", "ssh", "--timeout", "10ms", *words).code == 7
    assert cowshed("ls", "-q").out == "web\n"


def test_run_that_would_wait_in_vain_brings_no_image(cowshed: Command, tmp_path: Path):
    disk = raw_image(tmp_path / "new.raw")
    refused(cowshed("run", disk, "--wait", "ssh"), 2, "nothing would lead", "-p 2222:22")
    refused(cowshed("run", disk, "--wait", "address", "--network", "none"), 2, "no network", "--network user")
    (tmp_path / "config.toml").write_text('[network]\ndefault = "none"\n')
    refused(cowshed("run", disk, "--wait", "address"), 2, "no network")
    assert cowshed("image", "ls", "-q").out == ""


def test_run_waits_for_an_address_on_any_network(cowshed: Command, tiny: Path):
    words = ["--wait", "address", "--timeout", "10ms", "--network", "none", "--network", "user"]
    assert cowshed("run", "tiny", "--name", "web", *words).code == 7


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["nothing"], 3, "image nothing does not exist"),
        (["./nothing.raw"], 3, "there is no such file"),
        (["tiny", "--name", "web"], 4, "instance web exists already"),
        (["tiny", "--name", "a b"], 2, "cannot be the name"),
        (["tiny", "--disk", "512K"], 8, "smaller than"),
        (["tiny", "--backend", "zfs"], 2, "there is no disk backend 'zfs'"),
        (["tiny", "-p", "99999:22"], 2, "ports go from 1 to 65535"),
        (["tiny", "--ssh-key", "/nowhere"], 2, "does not exist"),
        (["tiny", "--user-data", "/nowhere"], 2, "does not exist"),
        (["tiny", "--kernel", "nothing"], 3, "image nothing does not exist"),
    ],
)
def test_bad_input_of_run(cowshed: Command, web: str, words: list[str], code: int, said: str):
    refused(cowshed("run", *words), code, said)
    assert cowshed("ls", "-q").out == "web\n"
    assert cowshed("image", "ls", "-q").out == "tiny\n"


# --- look ---------------------------------------------------------------------------------------------------------------


def test_ls_formats(cowshed: Command, web: str):
    table = cowshed("ls").out.splitlines()
    assert table[0].split() == ["NAME", "STATE", "IMAGE", "CPUS", "MEMORY", "PORTS", "AGE"]
    assert table[1].split()[:5] == ["web", "running", "tiny", "1", "1"]
    (item,) = cowshed("ls", "-o", "json").json["instances"]
    assert item["memory"] == 1 << 30
    assert yaml.safe_load(cowshed("ls", "-o", "yaml").out) == {"schema_version": 1, "instances": [item]}
    assert cowshed("ls", "-q").out == "web\n"


@pytest.mark.parametrize(
    ("rescued", "sent", "words", "keys", "hint"),
    [
        (True, None, "running (rescued)", (True, False, None), "cowshed unrescue web"),
        (False, "", "running (resized)", (False, True, None), "cowshed resize web --confirm"),
        (False, "cow-b", "running (moved to cow-b)", (False, False, "cow-b"), "--revert starts it here again"),
    ],
)
def test_what_an_instance_waits_for_is_shown(
    cowshed: Command,
    web: str,
    monkeypatch: pytest.MonkeyPatch,
    rescued: bool,
    sent: str | None,
    words: str,
    keys: tuple[object, ...],
    hint: str,
):
    """Beside its state, which is what it was, and under keys of their own."""
    monkeypatch.setattr(PretendDriver, "rescued", lambda *_: rescued)
    monkeypatch.setattr(PretendDriver, "resized", lambda *_: sent is not None)
    monkeypatch.setattr(PretendDriver, "moved_to", lambda *_: sent or "")
    assert f" {words} " in cowshed("ls").out.splitlines()[1]
    assert cowshed("restart", "web").out.splitlines()[1] == f"web   {words}"
    shown = cowshed("show", "web").out
    assert [words, hint] == [word for word in (words, hint) if word in shown]
    for item in (
        *cowshed("ls", "-o", "json").json["instances"],
        cowshed("show", "web", "-o", "json").json["instance"],
        yaml.safe_load(cowshed("show", "web", "-o", "yaml").out)["instance"],
    ):
        assert item["state"] == "running"
        assert (item["rescued"], item["resized"], item["moved_to"]) == keys


def test_what_waits_for_nothing_is_shown_as_before(cowshed: Command, web: str):
    assert cowshed("restart", "web").out.splitlines()[1] == "web   running"
    assert not {"rescued", "resized", "moved_to"} & set(cowshed("show", "web").out.split())
    item = cowshed("show", "web", "-o", "json").json["instance"]
    assert (item["rescued"], item["resized"], item["moved_to"]) == (False, False, None)


def test_a_note_that_cannot_be_read_does_not_hide_the_instances(cowshed: Command, web: str):
    cowshed.fail["resized"] = errors.DataCorrupt(path="/state/transit/web.out.json", reason="not JSON")
    result = cowshed("ls")
    assert result.code == 0
    assert result.out.splitlines()[1].split()[:2] == ["web", "running"]
    assert "not JSON" in result.err


def test_ls_of_nothing(cowshed: Command):
    assert cowshed("ls").out.split() == ["NAME", "STATE", "IMAGE", "CPUS", "MEMORY", "PORTS", "AGE"]
    assert cowshed("ls", "-o", "json").json == {"schema_version": 1, "instances": []}
    assert cowshed("ls", "-q").out == ""


def test_show(cowshed: Command, web: str):
    shown = cowshed("show", "web", "-o", "json").json["instance"]
    assert shown["name"] == shown["hostname"] == "web"
    assert shown["disks"] == []
    assert "hostname   web" in cowshed("info", "web").out
    refused(cowshed("show", "nothing"), 3, "instance nothing does not exist")


@pytest.mark.parametrize(
    "verb", ["show", "log", "console", "vnc", "spice", "ssh", "start", "stop", "restart", "pause", "wait"]
)
def test_unknown_instance(cowshed: Command, verb: str):
    refused(cowshed(verb, "nothing"), 3, "instance nothing does not exist", "cowshed ls")


def test_names_from_outside_cannot_write_to_the_terminal(cowshed: Command):
    cowshed.findings.append(Finding("warning", "x", "evil\x1b]0;title\x07"))
    assert "evil?]0;title?" in cowshed("doctor").out


def test_log(cowshed: Command, web: str, tmp_path: Path):
    assert cowshed("log", "web").out == ""
    (tmp_path / "state" / "web.log").write_bytes(b"one\ntwo\n")
    assert cowshed("log", "web").out == "one\ntwo\n"
    assert cowshed("log", "web", "-o", "json").json["log"]["text"] == "one\ntwo\n"
    assert cowshed("log", "web", "-f", "--until", "two").out == "one\ntwo\n"
    result = cowshed("log", "web", "--until", "three", "--timeout", "50ms")
    assert (result.code, result.out) == (7, "one\ntwo\n")


def test_vnc(cowshed: Command, web: str):
    assert cowshed("vnc", "web", "-o", "json").json["vnc"]["url"] == "vnc://127.0.0.1:5901"


def test_spice(cowshed: Command, web: str):
    told = cowshed("spice", "web", "-o", "json").json["spice"]
    assert (told["port"], told["tls_port"], told["url"]) == (None, 5902, "spice://[::1]?tls-port=5902")


def test_backends(cowshed: Command):
    rows = {row["name"]: row for row in cowshed("backends", "-o", "json").json["backends"]}
    assert set(rows) == {"qcow2", "raw", "ploop", "lvm", "rbd"}
    assert rows["qcow2"]["configured"]
    assert rows["qcow2"]["instant_clone"]
    assert rows["qcow2"]["free"] > 0
    assert (rows["rbd"]["configured"], rows["rbd"]["problem"]) == (False, "[rbd] pool is not set")
    table = cowshed("backends").out
    assert "not configured: [lvm] volume_group is not set" in table
    assert len(table.splitlines()) == 6


def test_doctor(cowshed: Command):
    assert cowshed("doctor").code == 0
    cowshed.findings.append(Finding("error", "KVM", "it hangs", "mend it"))
    result = cowshed("doctor")
    assert result.code == 1
    assert "ERROR    KVM: it hangs" in result.out
    assert "-> mend it" in result.out
    assert cowshed("doctor", "-o", "json").json["findings"][-1]["remedy"] == "mend it"


def test_config_show(cowshed: Command, tmp_path: Path):
    (tmp_path / "config.toml").write_text('[disks]\nbackend = "raw"\n')
    items = {item["option"]: item for item in cowshed("config", "show", "-o", "json").json["config"]}
    assert items["disks.backend"]["value"] == "raw"
    assert items["disks.backend"]["source"] == str(tmp_path / "config.toml")
    assert items["host.state"]["source"] == "environment"
    assert items["cache.max_age"]["source"] == "default"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[disks]\nbackedn = "raw"\n', "did you mean backend?"),
        ('[diks]\nbackend = "raw"\n', "did you mean disks?"),
        ('[disks]\nbackend = "zfs"\n', "'zfs' is not one of"),
        ("[disks\n", "config.toml"),
    ],
)
@pytest.mark.parametrize("verb", [["ls"], ["run", "x"], ["config", "show"], ["image", "ls"]])
def test_bad_configuration(cowshed: Command, tmp_path: Path, verb: list[str], text: str, said: str):
    (tmp_path / "config.toml").write_text(text)
    refused(cowshed(*verb), 2, said)


def test_variables_that_are_nearly_ours(cowshed: Command, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COWSHED_STATE", "/srv/trial")
    result = cowshed("ls")
    assert result.code == 0
    assert result.err == "cowshed: COWSHED_STATE is no option, and changes nothing; did you mean COWSHED_HOST_STATE?\n"
    monkeypatch.setenv("COWSHED_HOTS_STATE", "/srv/trial")
    refused(cowshed("ls"), 2, "COWSHED_HOTS_STATE is no option", "did you mean COWSHED_HOST_STATE?")


def test_events(cowshed: Command, web: str):
    cowshed("stop", "web", "--force")
    rows = cowshed("events", "-o", "json").json["events"]
    assert [(row["name"], row["event"]) for row in rows] == [("web", "created"), ("web", "stopped")]
    refused(cowshed("events", "--limit", "-1"), 2, "-1")
    assert cowshed("events", "--limit", "1").out.splitlines()[1].split()[2:4] == ["web", "stopped"]
    cowshed("run", "tiny", "--name", "db")
    assert cowshed("events", "web", "-o", "json").json["events"] == rows
    assert cowshed("events", rows[0]["uuid"], "--limit", "1", "-o", "json").json["events"] == rows[1:]
    cowshed("rm", "--yes", "web")
    assert cowshed("events", "web", "-q").out == "web\n" * 3, "also of one that has gone"
    refused(cowshed("events", "gone"), 3, "instance gone does not exist")


def test_events_followed(cowshed: Command, web: str, monkeypatch: pytest.MonkeyPatch):
    from cowshed.model.event import LifecycleEvent, Transition

    (uuid,) = cowshed.power

    def told(self: PretendDriver, callback: Callable[[LifecycleEvent], None]) -> None:
        callback(LifecycleEvent("stranger", Transition.STOPPED))
        callback(LifecycleEvent(uuid, Transition.STOPPED, "shut down", timestamp=7.0))
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(PretendDriver, "register_event_listener", told)
    result = cowshed("events", "-f", "-o", "json")
    assert result.code == 130
    assert [json.loads(line)["event"] for line in result.out.splitlines()] == ["created"]


def test_watch_names_instances(cowshed: Command, web: str, tmp_path: Path):
    from cowshed.manager import Host
    from cowshed.model.event import LifecycleEvent, Transition

    (uuid,) = cowshed.power
    driver = cowshed.driver
    driver.register_event_listener = lambda put: [  # type: ignore[method-assign]
        put(LifecycleEvent("stranger", Transition.STOPPED)),
        put(LifecycleEvent(uuid, Transition.STOPPED, "shut down", timestamp=7.0)),
    ]
    entry = next(Host(driver.rooms.config, driver).watch())
    assert (entry.time, entry.name, entry.event, entry.detail) == (7.0, "web", "stopped", "shut down")


# --- power --------------------------------------------------------------------------------------------------------------


def test_power_verbs(cowshed: Command, web: str):
    walk = [
        (["pause"], "paused"),
        (["resume"], "running"),
        (["suspend"], "suspended"),
        (["start"], "running"),
        (["restart"], "running"),
        (["restart", "--hard"], "running"),
        (["restart", "--timeout", "5s"], "running"),
        (["stop", "--timeout", "3s"], "stopped"),
        (["start"], "running"),
        (["stop", "--force"], "stopped"),
    ]
    for words, state in walk:
        result = cowshed(*words, "web")
        assert result.code == 0, result.err
        assert result.out.splitlines()[1].split()[:2] == ["web", state]
    assert cowshed.driver.calls == [("switch_off", "web", "0")]


@pytest.mark.parametrize("words", [["run", "tiny"], ["resize", "web"]], ids=["run", "resize"])
@pytest.mark.parametrize(
    ("memory", "hint"),
    [
        ("1M", "ask for at least 16M"),
        ("15.9MiB", "ask for at least 16M"),
        ("512", "write a unit, for example 512M; at least 16M"),
    ],
)
def test_the_least_memory_is_told(cowshed: Command, web: str, words: list[str], memory: str, hint: str):
    refused(cowshed(*words, "--memory", memory), 2, f"{memory} of memory runs nothing", hint)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--confirm", "--cpus", "2"], "--confirm ends the last resize, and excludes --cpus"),
        (
            ["--revert", "--disk", "2G", "--memory", "1G"],
            "--revert ends the last resize, and excludes --memory, --disk",
        ),
        (["--confirm", "--revert"], "--confirm and --revert exclude each other"),
        (["--confirm", "--revert", "--cpus", "2"], "--confirm and --revert exclude each other"),
        ([], "say what shall change (--cpus, --memory, --disk), or --confirm or --revert"),
    ],
)
def test_options_of_resize_that_exclude_each_other(cowshed: Command, web: str, words: list[str], said: str):
    before = list(cowshed.driver.calls)
    refused(cowshed("resize", "web", *words), 2, said)
    assert cowshed.driver.calls == before


def test_stop_says_how_each_guest_ended(cowshed: Command, web: str):
    cowshed("run", "tiny", "--name", "db")
    cowshed("pause", "db")
    cowshed("run", "tiny", "--name", "off")
    cowshed("stop", "off")
    assert [line.split() for line in cowshed("stop", "web", "db", "off").out.splitlines()] == [
        ["NAME", "STATE", "ENDED"],
        ["web", "stopped", "shut", "down"],
        ["db", "stopped", "cut", "off"],
        ["off", "stopped", "-"],
    ]
    cowshed("start", "web", "db")
    rows = [*cowshed("stop", "web", "off", "-o", "json").json["instances"]]
    rows += cowshed("stop", "db", "--force", "-o", "json").json["instances"]
    assert [row["ended"] for row in rows] == ["shut down", None, "cut off"]
    assert "ended" not in cowshed("show", "db", "-o", "json").json["instance"]


def test_one_failure_does_not_keep_the_others(cowshed: Command, web: str):
    cowshed("run", "tiny", "--name", "db")
    result = cowshed("stop", "web", "nothing", "db", "none", "-q")
    assert result.code == 3
    assert result.out == "web\ndb\n"
    assert result.err.splitlines() == [
        "cowshed: instance none does not exist",
        "cowshed: instance nothing does not exist",
        "  cowshed ls shows what there is",
    ]


def test_suspended_memory_is_kept(cowshed: Command, web: str):
    cowshed("suspend", "web")
    refused(cowshed("stop", "web"), 4, "is suspended", "cowshed resume")
    assert cowshed("stop", "web", "--force").code == 0


def test_wait(cowshed: Command, web: str):
    assert cowshed("wait", "web", "-o", "json").json["wait"] == {
        "name": "web", "condition": "running", "found": "running",
    }  # fmt: skip
    refused(cowshed("wait", "web", "--for", "stopped", "--timeout", "10ms"), 7, "did not happen within")
    refused(cowshed("wait", "web", "--for", "ssh"), 4, "no network that the host reaches")


def test_ssh_options_end_at_the_command(cowshed: Command, tiny: Path, monkeypatch: pytest.MonkeyPatch):
    seen: list[list[str]] = []
    monkeypatch.setattr("cowshed.tools.run.replace", seen.append)
    cowshed("run", "tiny", "--name", "web", "-p", "127.0.0.2:42022:22")
    for words in (
        ["-l", "root", "web", "ls", "-la"],
        ["web", "-l", "root", "ls", "-la"],
        ["web", "--user=root", "--", "ls", "-la"],
    ):
        assert cowshed("ssh", *words).code == 0
        assert seen[-1][-6:] == ["-l", "root", "--", "127.0.0.2", "ls", "-la"]
    cowshed("ssh", "-i", "key", "web")
    assert seen[-1][-4:] == ["-i", "key", "--", "127.0.0.2"]
    cowshed("ssh", "web")
    assert seen[-1][-2:] == ["--", "127.0.0.2"]
    cowshed("ssh", "web", "uptime", "-o", "-q", "--help")
    assert seen[-1][-4:] == ["uptime", "-o", "-q", "--help"]


# --- remove -------------------------------------------------------------------------------------------------------------


class Terminal:
    """Standard input that is a terminal where ``answer`` is typed."""

    def __init__(self, answer: str) -> None:
        self._lines = iter([answer])

    def isatty(self) -> bool:
        return True

    def readline(self, size: int = -1) -> str:
        return next(self._lines, "")

    def fileno(self) -> int:
        raise OSError


def test_rm_needs_yes_without_a_terminal(cowshed: Command, web: str):
    refused(cowshed("rm", "web"), 2, "--yes")
    refused(cowshed("image", "rm", "tiny"), 2, "--yes")
    refused(cowshed("image", "prune"), 2, "--yes")
    assert cowshed("ls", "-q").out == "web\n"


@pytest.mark.parametrize(("answer", "code", "left"), [("y\n", 0, ""), ("n\n", 1, "web\n"), ("\n", 1, "web\n")])
def test_rm_asks_on_a_terminal(
    cowshed: Command, web: str, monkeypatch: pytest.MonkeyPatch, answer: str, code: int, left: str
):
    with monkeypatch.context() as patch:
        patch.setattr("sys.stdin", Terminal(answer))
        patch.setattr("click.termui.visible_prompt_func", lambda prompt: answer.strip())
        result = cowshed("rm", "web")
    assert result.code == code
    assert "Remove web and all its disks?" in result.err
    assert result.out == ("REMOVED\nweb\n" if code == 0 else "")
    assert ("nothing was removed" in result.err) == bool(code)
    assert cowshed("ls", "-q").out == left


def test_rm(cowshed: Command, web: str):
    cowshed("run", "tiny", "--name", "db")
    result = cowshed("rm", "--yes", "web", "db", "web")
    assert (result.code, result.out) == (0, "REMOVED\nweb\ndb\n")
    refused(cowshed("rm", "-y", "web"), 3, "instance web does not exist")


def test_soft_rm_and_restore(cowshed: Command, web: str, tmp_path: Path):
    result = cowshed("rm", "--soft", "web")  # asks nobody: nothing is lost
    assert (result.code, result.out.splitlines()[0].split()) == (0, ["NAME", "IMAGE", "DELETED", "RECLAIMED"])
    assert result.out.endswith("  by hand\n")
    assert cowshed("ls", "-q").out == ""
    (kept,) = cowshed("ls", "--deleted", "-o", "json").json["instances"]
    assert (kept["name"], kept["state"], kept["reclaim_at"]) == ("web", "soft-deleted", None)
    assert kept == cowshed("rm", "--soft", "web", "-o", "json").json["instances"][0]
    refused(cowshed("stop", "web"), 4, "web is softly deleted; it cannot be stopped", "cowshed restore web")
    refused(
        cowshed("run", "tiny", "--name", "web"), 4, "instance web exists already", "cowshed rm web removes it for good"
    )
    refused(cowshed("reclaim", "--yes"), 2, "reclaim_interval is 0")
    (tmp_path / "config.toml").write_text("[instances]\nreclaim_interval = '2h'\n")
    (due,) = cowshed("ls", "--deleted", "-o", "json").json["instances"]
    assert due["reclaim_at"] == due["deleted_at"] + 7200
    assert "reclaim at" in cowshed("show", "web").out
    assert cowshed("reclaim", "--dry-run").out == "REMOVED\n"
    assert cowshed("restore", "web").out.splitlines()[1].split() == ["web", "running"]
    assert cowshed("ls", "--deleted", "-o", "json").json["instances"] == []
    refused(cowshed("restore", "web"), 4, "web is running, not softly deleted")


def test_reclaim(cowshed: Command, web: str, tmp_path: Path):
    cowshed("rm", "--soft", "web")
    (tmp_path / "config.toml").write_text("[instances]\nreclaim_interval = 0.001\n")
    refused(cowshed("reclaim"), 2, "--yes")
    assert cowshed("reclaim", "--dry-run", "-q").out == "web\n"
    assert cowshed("reclaim", "--yes").out == "REMOVED\nweb\n"
    assert cowshed("ls", "--deleted", "-q").out == ""
    assert cowshed("reclaim", "--yes").out == "REMOVED\n"


def test_rm_goes_on_after_a_failure(cowshed: Command, web: str, monkeypatch: pytest.MonkeyPatch):
    cowshed("run", "tiny", "--name", "db")
    destroy = PretendDriver.destroy

    def stuck(self: PretendDriver, context: Any, instance: Any, network_info: Any = None) -> None:
        if instance.name == "web":
            raise errors.HypervisorError(action="destroy", reason="device busy")
        destroy(self, context, instance, network_info)

    monkeypatch.setattr(PretendDriver, "destroy", stuck)
    result = cowshed("rm", "-y", "web", "db", "-q")
    assert (result.code, result.out) == (1, "db\n")
    assert "device busy" in result.err
    assert cowshed("ls", "-o", "json").json["instances"][0]["state"] == "deleting"


# --- images -------------------------------------------------------------------------------------------------------------


def test_image_walk(cowshed: Command, tiny: Path):
    (item,) = cowshed("image", "ls", "-o", "json").json["images"]
    digest = hashlib.sha256(tiny.read_bytes()).hexdigest()
    assert (item["name"], item["format"], item["size"], item["digest"]) == ("tiny", "raw", 1 << 20, f"sha256:{digest}")
    assert cowshed("image", "show", "tiny", "-o", "json").json["image"]["instances"] == []
    assert "sha256:" in cowshed("image", "info", "tiny").out
    assert cowshed("image", "verify").out.splitlines()[1].split() == ["tiny", f"sha256:{digest}"]
    assert cowshed("image", "rm", "tiny", "-y").out == "REMOVED\ntiny\n"
    assert cowshed("images", "list", "-q").out == ""


def test_image_in_use(cowshed: Command, web: str):
    refused(cowshed("image", "rm", "tiny", "-y"), 4, "image tiny is used by web", "--force")
    assert cowshed("image", "show", "tiny", "-o", "json").json["image"]["instances"] == ["web"]
    assert cowshed("image", "rm", "tiny", "-y", "--force").code == 0


def test_unknown_images(cowshed: Command, tiny: Path):
    refused(cowshed("image", "show", "nothing"), 3, "image nothing does not exist")
    refused(cowshed("image", "rm", "-y", "tiny", "nothing"), 3, "image nothing does not exist")
    refused(cowshed("image", "verify", "nothing"), 3, "image nothing does not exist")
    assert cowshed("image", "ls", "-q").out == "tiny\n"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["/nowhere/x.raw"], 3, "/nowhere/x.raw"),
        (["{tiny}", "--name", "tiny"], 4, "image tiny exists already"),
        (["{tiny}", "--name", "a b"], 2, "cannot be the name"),
        (["{tiny}", "--name", "b", "--sha256", "0" * 64], 1, "wrong sha256 digest"),
        (["{tiny}", "--name", "b", "--sha256", "xyz"], 2, "digest"),
        (["{tiny}", "--name", "b", "--format", "qcow2"], 1, "is refused"),
        (["{tiny}", "--name", "b", "--min-disk", "some"], 2, "is not a size"),
        (["{hostile}", "--name", "b"], 1, "is refused"),
        (["ftp://x/y.raw", "--name", "b"], 2, "ftp"),
    ],
)
def test_bad_input_of_pull(cowshed: Command, tiny: Path, tmp_path: Path, words: list[str], code: int, said: str):
    hostile = tmp_path / "hostile.qcow2"
    hostile.write_bytes(b"QFI\xfb" + (3).to_bytes(4, "big") + (104).to_bytes(8, "big") + b"\xff" * 1000)
    words = [word.format(tiny=tiny, hostile=hostile) for word in words]
    refused(cowshed("image", "pull", *words), code, said)
    assert cowshed("image", "ls", "-q").out == "tiny\n"
    left = [path.name for path in (tmp_path / "state" / "images").glob(".*") if path.is_dir() and any(path.iterdir())]
    assert left == []


def test_changed_image_is_found(cowshed: Command, tiny: Path, tmp_path: Path):
    (data,) = (tmp_path / "state" / "images").glob("*/data")
    data.chmod(0o600)
    with data.open("r+b") as file:
        file.write(b"changed")
    refused(cowshed("image", "verify"), 1, "wrong sha256 digest")


def test_prune(cowshed: Command, web: str):
    assert cowshed("image", "prune", "--dry-run", "-o", "json").json == {"schema_version": 1, "bases": []}
    assert cowshed("image", "prune", "--yes").code == 0


# --- progress -----------------------------------------------------------------------------------------------------------


def test_progress_goes_to_stderr_and_not_at_all_without_a_terminal(cowshed: Command, tiny: Path):
    words = ["image", "pull", tiny, "--name"]
    assert cowshed(*words, "a").err == ""
    assert cowshed(*words, "b", "--progress", "none").err == ""
    plain = cowshed(*words, "c", "--progress", "plain", "-q")
    assert plain.out == "c\n"
    assert plain.err
    told = [json.loads(line) for line in cowshed(*words, "d", "--progress", "json").err.splitlines()]
    assert told
    assert all(set(line) == {"phase", "done", "total", "seconds"} for line in told)


# --- the way out --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", SIGNALS)
def test_signals_take_back_what_was_begun(cowshed: Command, tiny: Path, number: int, monkeypatch: pytest.MonkeyPatch):
    def spawn(self: PretendDriver, *args: Any, **options: Any) -> None:
        signal.raise_signal(number)

    signal.signal(number, signal.SIG_DFL)  # the tests may run under nohup
    monkeypatch.setattr(PretendDriver, "spawn", spawn)
    result = cowshed("run", "tiny", "--name", "web")
    assert result.code == 130
    assert result.err.strip() == "interrupted"
    assert cowshed("ls", "-q").out == ""


def test_second_signal_does_not_stop_the_clearing_up(cowshed: Command, tiny: Path, monkeypatch: pytest.MonkeyPatch):
    def spawn(self: PretendDriver, *args: Any, **options: Any) -> None:
        signal.raise_signal(signal.SIGINT)

    def destroy(self: PretendDriver, *args: Any, **options: Any) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(PretendDriver, "spawn", spawn)
    monkeypatch.setattr(PretendDriver, "destroy", destroy)
    result = cowshed("run", "tiny", "--name", "web")
    assert result.code == 130
    assert "clearing up" in result.err
    assert cowshed("ls", "-q").out == ""


def test_an_interruption_within_code_from_a_text_is_one_like_any_other(tmp_path: Path):
    """As where dataclasses are made while the command is being loaded. ``python -m`` would end by the signal."""
    (tmp_path / "early.py").write_text(
        "from cowshed import cli\ncli._run = lambda words: exec('raise KeyboardInterrupt')\ncli.main([])\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "early"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


def test_ignored_signals_stay_ignored(cowshed: Command):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    assert cowshed("ls").code == 0
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
