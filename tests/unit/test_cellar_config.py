"""The configuration: layers, types, and errors that name what was probably meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from cowshed import config
from cowshed.errors import ConfigError
from cowshed.units import GiB


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_defaults_need_no_file() -> None:
    loaded = config.load(files=[], environ={})
    assert loaded.disks.backend == "qcow2"
    assert loaded.sources == {}


def test_what_cannot_be_read_is_said_in_words(tmp_path: Path) -> None:
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"binary\.toml: it is not text in UTF-8"):
        config.load(files=[tmp_path / "binary.toml"], environ={})
    with pytest.raises(ConfigError, match="it cannot be read: Is a directory"):
        config.load(files=[tmp_path], environ={})


@pytest.mark.parametrize(
    ("link", "read"),
    [
        ("cowshed/config.toml", "cowshed/config.toml"),
        ("cowshed", "cowshed/config.toml"),
        ("cowshed/conf.d", "cowshed/conf.d"),
        ("cowshed/conf.d/a.toml", "cowshed/conf.d/a.toml"),
    ],
)
def test_a_link_that_leads_nowhere_is_not_the_same_as_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, link: str, read: str
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    place = tmp_path / link
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to("/gone/from/here")
    with pytest.raises(ConfigError) as caught:
        config.load(environ={"XDG_CONFIG_HOME": str(tmp_path)})
    what = "it" if link == read else str(place)
    assert str(caught.value) == f"{tmp_path / read}: {what} is a link to /gone/from/here, which is not there"
    place.unlink()
    assert config.load(environ={"XDG_CONFIG_HOME": str(tmp_path)}).sources == {}


def test_the_chosen_file_is_no_link_that_leads_nowhere(tmp_path: Path) -> None:
    chosen = tmp_path / "mine.toml"
    chosen.symlink_to("gone.toml")
    with pytest.raises(ConfigError, match=r"mine\.toml: it is a link to gone\.toml, which is not there"):
        config.load(environ={"COWSHED_CONFIG": str(chosen)})
    chosen.unlink()
    with pytest.raises(ConfigError, match="COWSHED_CONFIG names it, but it is not there"):
        config.load(environ={"COWSHED_CONFIG": str(chosen)})


def test_a_user_without_a_home_says_where_the_state_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's made-up number has neither HOME nor a line in /etc/passwd."""
    for variable in ("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "COWSHED_CONFIG"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr("os.geteuid", lambda: 54321)
    monkeypatch.setattr("os.getuid", lambda: 54321)
    assert config.load(environ={"COWSHED_HOST_STATE": str(tmp_path)}).state == tmp_path
    assert config.load(environ={"COWSHED_CONSOLE_VNC": "no"}).console.vnc is False
    with pytest.raises(ConfigError, match="user 54321 has no home directory") as caught:
        _ = config.load(environ={}).state
    assert "COWSHED_HOST_STATE" in str(caught.value.hint)
    with pytest.raises(ConfigError) as caught:
        config.check_backend("lvm", ["raw"])
    assert caught.value.hint == "set COWSHED_LVM_VOLUME_GROUP"


@pytest.mark.parametrize("value", ["state", "./state", "~/state"])
def test_a_relative_place_would_be_another_one_in_every_directory(value: str) -> None:
    with pytest.raises(ConfigError, match=f"state: '{value}' is not an absolute path"):
        config.load(files=[], environ={"COWSHED_HOST_STATE": value})


def test_later_file_wins_and_sources_are_known(tmp_path: Path) -> None:
    first = write(tmp_path / "a.toml", '[disks]\nbackend = "raw"\ncache = "none"\n')
    second = write(tmp_path / "b.toml", '[disks]\nbackend = "qcow2"\n')
    loaded = config.load(files=[first, second], environ={})
    assert (loaded.disks.backend, loaded.disks.cache) == ("qcow2", "none")
    assert loaded.sources == {"disks.backend": str(second), "disks.cache": str(first)}


def test_environment_wins_over_files(tmp_path: Path) -> None:
    file = write(tmp_path / "a.toml", '[disks]\nbackend = "qcow2"\n')
    loaded = config.load(files=[file], environ={"COWSHED_DISKS_BACKEND": "raw", "COWSHED_CONSOLE_VNC": "no"})
    assert loaded.disks.backend == "raw"
    assert loaded.console.vnc is False


@pytest.mark.parametrize(
    ("variable", "near"),
    [
        ("COWSHED_DISK_BACKEND", "COWSHED_DISKS_BACKEND"),
        ("COWSHED_HSOT_STATE", "COWSHED_HOST_STATE"),
        ("COWSHED_NETWORKS_DEFUALT", "COWSHED_NETWORK_DEFAULT"),
        ("COWSHED_disks_backend", "COWSHED_DISKS_BACKEND"),
        ("COWSHED_Host_State", "COWSHED_HOST_STATE"),
    ],
)
def test_a_misspelt_section_in_the_environment_is_an_error(variable: str, near: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.load(files=[], environ={variable: "raw"})
    assert str(caught.value) == f"environment: {variable} is no option"
    assert caught.value.hint == f"did you mean {near}?"


@pytest.mark.parametrize(
    ("variable", "near"),
    [
        ("COWSHED_DISK_SCHEDULER", "[disks]"),
        ("COWSHED_IMAGE_DIR", "[images]"),
        ("COWSHED_STATE", "COWSHED_HOST_STATE"),
        ("COWSHED_BACKEND", "COWSHED_DISKS_BACKEND"),
        ("COWSHED_backend", "COWSHED_DISKS_BACKEND"),
        ("COWSHED_DISKS", "one of [disks], COWSHED_DISKS_<KEY>"),
        ("COWSHED_disks_scheduler", "one of [disks], COWSHED_DISKS_<KEY>"),
        ("COWSHED_DEBGU", "COWSHED_DEBUG"),
        ("COWSHED_debug", "COWSHED_DEBUG"),
        ("COWSHED_CONFIGS", "COWSHED_CONFIG"),
        ("COWSHED_PATHS", "COWSHED_PATH"),
    ],
)
def test_a_variable_that_may_be_somebody_s_own_is_told_of(
    variable: str, near: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert config.load(files=[], environ={variable: "x"}) == config.load(files=[], environ={})
    (said,) = config.doubtful({variable: "x", "COWSHED_DISKS_BACKEND": "raw"})
    assert said.startswith(f"{variable} is no option, and changes nothing")
    assert near in said


@pytest.mark.parametrize(
    "variable",
    [
        "COWSHED_CONFIG",
        "COWSHED_DEBUG",
        "COWSHED_PATH",
        "COWSHED_TESTS_KEPT",
        "COWSHED_HOST_STATE",
        # of a Kubernetes service with our name, and of other people's scripts
        "COWSHED_SERVICE_HOST",
        "COWSHED_SERVICE_PORT",
        "COWSHED_PORT",
        "COWSHED_PORT_80_TCP_ADDR",
        "COWSHED_CONFIRM",
        "COWSHED_IMAGE",
        "COWSHED_HOME",
        "_COWSHED_COMPLETE",
        "MY_COWSHED_DISK_BACKEND",
    ],
)
def test_a_variable_that_is_none_of_ours_is_left_alone(variable: str) -> None:
    config.load(files=[], environ={variable: "/x"})
    assert config.doubtful({variable: "/x"}) == []


@pytest.mark.parametrize(
    ("text", "value"),
    [('max_size = "20G"', 20 * GiB), ("max_size = 1024", 1024), ('max_size = "1.5GiB"', 3 * GiB // 2)],
)
def test_sizes_are_words_or_bytes(tmp_path: Path, text: str, value: int) -> None:
    assert config.load(files=[write(tmp_path / "a.toml", f"[cache]\n{text}\n")], environ={}).cache.max_size == value


def test_durations_are_words_or_seconds(tmp_path: Path) -> None:
    loaded = config.load(files=[write(tmp_path / "a.toml", '[cache]\nmax_age = "2h"\n')], environ={})
    assert loaded.cache.max_age == 7200


@pytest.mark.parametrize(
    ("text", "said", "hint"),
    [
        ('[disks]\nbackand = "raw"\n', "unknown key backand", "did you mean backend?"),
        ("[disk]\nx = 1\n", "unknown section disk", "did you mean disks?"),
        ("[zebra]\nx = 1\n", "unknown section zebra", "known: host"),
        ('[disks]\nbackend = "zfs"\n', "'zfs' is not one of", None),
        ("[cache]\nmax_size = true\n", "not", None),
        ("[console]\nvnc = 3\n", "not true or false", None),
        ("[disks]\nbackend = 3\n", "not text", None),
        ("disks = 3\n", "must be a section", None),
        ("[disks\n", "Expected", None),
        ('[cache]\nmax_size = "twenty"\n', "is not a size", None),
    ],
)
def test_wrong_configuration_says_what_and_where(tmp_path: Path, text: str, said: str, hint: str | None) -> None:
    file = write(tmp_path / "a.toml", text)
    with pytest.raises(ConfigError) as caught:
        config.load(files=[file], environ={})
    assert said in str(caught.value)
    assert str(file) in str(caught.value)
    if hint:
        assert hint in (caught.value.hint or "")


def test_every_option_has_a_help_sentence() -> None:
    from dataclasses import fields

    missing = [
        f"{name}.{option.name}"
        for name, kind in config.sections().items()
        for option in fields(kind)
        if not option.metadata.get("help")
    ]
    assert missing == []
