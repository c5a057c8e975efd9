"""Promises of moves between hosts, as far as one host can show them."""

from __future__ import annotations

from cowshed.errors import CowshedError, InvalidState
from cowshed.model.instance import PowerState
from cowshed.testing.conformance.driver.suite import DriverSuite, promise
from cowshed.testing.conformance.expect import refuses


class MovingPromises(DriverSuite):
    @promise(
        "check_instance_shared_storage_local",
        "check_instance_shared_storage_remote",
        "check_instance_shared_storage_cleanup",
    )
    def test_a_host_shares_storage_with_itself(self) -> None:
        data = self.driver.check_instance_shared_storage_local(None, self.lasting())
        if data is not None:
            assert self.driver.check_instance_shared_storage_remote(None, data)
            for _ in range(2):
                self.driver.check_instance_shared_storage_cleanup(None, data)
            assert not self.driver.check_instance_shared_storage_remote(None, data)
        assert self.driver.check_instance_shared_storage_local(None, self.unknown()) is None

    @promise("live_migration")
    def test_a_move_to_nowhere_calls_back_once_and_the_guest_stays(self) -> None:
        """Or it is refused before anything happens, and then nobody is called."""
        instance, called = self.lasting(), list[str]()
        before = self.driver.get_info(instance).internal_id
        refused = False
        try:
            self.driver.live_migration(
                None,
                instance,
                "nowhere.invalid",
                lambda *_, **__: called.append("post"),
                lambda *_, **__: called.append("recover"),
            )
        except CowshedError as error:
            if isinstance(error, NotImplementedError):
                raise
            refused = True
        assert called == ["recover"] or (refused and not called), (called, refused)
        self._is(instance, PowerState.RUNNING)
        assert self.driver.get_info(instance).internal_id == before

    @promise("live_migration_abort")
    def test_what_does_not_move_cannot_be_stopped(self) -> None:
        instance = self.lasting()
        with refuses(InvalidState):
            self.driver.live_migration_abort(instance)
        self._is(instance, PowerState.RUNNING)

    @promise("live_migration_force_complete")
    def test_what_does_not_move_is_not_hurried(self) -> None:
        instance = self.lasting()
        with refuses(InvalidState):
            self.driver.live_migration_force_complete(instance)
        self._is(instance, PowerState.RUNNING)

    @promise("post_live_migration")
    def test_what_is_over_may_be_said_twice(self) -> None:
        instance = self.unknown()
        for _ in range(2):
            self.driver.post_live_migration(None, instance, None)
