"""What a long run in parallel needs: failures said when they happen, and a crash of one worker that costs one test only."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import pytest

LINES = 120  # of a failure's text, its end
CHANCE = 3  # failures of tests with guests that may be chance; more are not


class FailuresAtOnce:
    """With CI=true, the text of a failure is printed at once: a run that is cut off would otherwise never say it."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if not report.failed or os.environ.get("CI") != "true" or "PYTEST_XDIST_WORKER" in os.environ:
            return
        terminal = self._config.pluginmanager.get_plugin("terminalreporter")
        text = report.longreprtext.splitlines()[-LINES:]
        terminal.write_line("")
        terminal.write_line(f"--- failed now ({report.when}): {report.nodeid}")
        for line in text:
            terminal.write_line(line)


class Again:
    """Names in a file, one a line, the tests that may be run once more: a few that failed, all of them with guests.

    Hundreds of guests are translated beside each other, and QEMU lets one in thousands stand still for good. Nothing is
    named where anything else is wrong. ``CI_TESTS_AGAIN`` says which file; without it nothing happens.
    """

    def __init__(self) -> None:
        self._failed: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._failed.add(report.nodeid.split("@")[0])  # xdist writes the group behind the name

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._failed.add(report.nodeid or "collection")

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        path = os.environ.get("CI_TESTS_AGAIN")
        if not path or "PYTEST_XDIST_WORKER" in os.environ or session.exitstatus != pytest.ExitCode.TESTS_FAILED:
            return
        guard = session.config.pluginmanager.get_plugin("skip-guard")
        fine = not (guard and guard.unexpected) and all(name.startswith("tests/vm/") for name in self._failed)
        if fine and 0 < len(self._failed) <= CHANCE:
            Path(path).write_text("".join(f"{name}\n" for name in sorted(self._failed)))


class Crashes:
    """A crash of a worker costs the test that it ran: that one is not run again, and the worker's replacement gets work.

    A worker begins a test only when it knows the next. xdist gives a replacement one unit of work, and the next when a
    test of it has ended: with units of one test each, that worker waits for good, and so does the run. So it does with
    units that were complete when the worker crashed, which xdist hands out again.
    """

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Any) -> Any:
        if config.getvalue("dist") != "loadgroup":
            return None
        from xdist.scheduler import LoadGroupScheduling

        class Scheduling(LoadGroupScheduling):
            def schedule(self) -> None:
                begun = self.collection is not None
                super().schedule()
                if begun:
                    super().schedule()

            def _reschedule(self, node: Any) -> None:
                if node in self.registered_collections:  # else it is still collecting, and is given work after that
                    super()._reschedule(node)

            def _assign_work_unit(self, node: Any) -> None:
                # One that has crashed and is not known to have: what it is given here, remove_node gives to others.
                with contextlib.suppress(OSError):
                    super()._assign_work_unit(node)

            def remove_node(self, node: Any) -> str | None:
                units = self.assigned_work[node]
                crashed = next((test for unit in units.values() for test, done in unit.items() if not done), None)
                if crashed is not None:
                    units[self._split_scope(crashed)][crashed] = True
                self.assigned_work[node] = {name: unit for name, unit in units.items() if not all(unit.values())}
                super().remove_node(node)
                return crashed

        return Scheduling(config, log)
