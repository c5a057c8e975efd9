"""Promises of snapshots, rescue, rebuild, and of what happens inside a guest."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from cowshed.contract.imaging import ImageService
from cowshed.errors import InstanceNotFound, InvalidState
from cowshed.model.image import Image
from cowshed.model.instance import PowerState
from cowshed.testing.conformance.driver.suite import DriverSuite, promise
from cowshed.testing.conformance.expect import refuses


class ImagePromises(DriverSuite):
    def reserved(self) -> str:
        """The id of an image that a snapshot is to fill, another one at each call. Replace it where the image service wants
        a record first.
        """
        return f"conform-{uuid.uuid4()}"

    @promise("snapshot")
    def test_a_stopped_instance_becomes_an_image(self) -> None:
        instance, told, image_id = self.lasting(), list[dict[str, Any]](), self.reserved()
        self.driver.power_off(instance)
        self.driver.snapshot(None, instance, image_id, lambda **states: told.append(states))
        self._is_stored(image_id)
        assert [one["task_state"] for one in told] == ["image_pending_upload", "image_uploading"]
        assert told[1]["expected_state"] == "image_pending_upload"
        self._is(instance, PowerState.SHUTDOWN)
        self.driver.power_on(None, instance, [])
        self._is(instance, PowerState.RUNNING)

    @promise("snapshot")
    def test_a_running_instance_becomes_an_image_and_runs_on(self) -> None:
        instance, image_id = self.lasting(), self.reserved()
        start = self.start_of(instance)
        self.driver.snapshot(None, instance, image_id, lambda **_: None)
        self.goes_on(instance, start)
        self._is_stored(image_id)

    def _is_stored(self, image_id: str) -> None:
        """As far as the driver's own image service tells."""
        images = getattr(self.driver, "images", None)
        if isinstance(images, ImageService):
            assert images.show(image_id).size > 0

    @promise("snapshot", "post_interrupted_snapshot_cleanup")
    def test_a_snapshot_of_nobody(self) -> None:
        told: list[object] = []
        with refuses(InstanceNotFound, InvalidState):
            self.driver.snapshot(None, self.unknown(), "nobodys", lambda **states: told.append(states))
        assert not told
        for _ in range(2):
            self.driver.post_interrupted_snapshot_cleanup(None, self.lasting())

    @promise("quiesce", "unquiesce")
    def test_what_is_off_is_not_frozen(self) -> None:
        instance = self.lasting()
        self.driver.power_off(instance)
        with refuses(InvalidState):
            self.driver.quiesce(None, instance, self.image)
        with refuses(InvalidState):
            self.driver.unquiesce(None, instance, self.image)

    @promise("set_admin_password", "inject_file")
    def test_nothing_is_done_inside_what_is_off(self) -> None:
        instance = self.lasting()
        self.driver.power_off(instance)
        path, content = (base64.b64encode(text).decode() for text in (b"/tmp/conform", b"hello"))
        calls: list[Callable[[], object]] = [
            lambda: self.driver.set_admin_password(instance, "secret"),
            lambda: self.driver.inject_file(instance, path, content),
        ]
        for call in calls:
            with refuses(InvalidState):
                call()

    @promise("change_instance_metadata")
    def test_metadata_may_be_changed_twice(self) -> None:
        instance = self.lasting()
        for _ in range(2):
            self.driver.change_instance_metadata(None, instance, {"color": ["+", "red"], "size": ["-"]})
        self._is(instance, PowerState.RUNNING)

    @promise("rescue", "unrescue")
    def test_rescue_and_back(self) -> None:
        instance = self.lasting()
        self.driver.unrescue(instance, [])  # it is not rescued
        self._is(instance, PowerState.RUNNING)
        with refuses(*self.refusals):
            self.driver.rescue(None, instance, [], replace(self.image, id="no-such-image", name="no-such-image"), "")
        self._is(instance, PowerState.RUNNING)
        start = self.start_of(instance)
        self.driver.rescue(None, instance, [], self.image, "secret")
        self.has_started(instance, start)
        start = self.start_of(instance)
        with refuses(InvalidState):
            self.driver.rescue(None, instance, [], self.image, "secret")
        self.goes_on(instance, start)
        self.driver.unrescue(instance, [])
        self.has_started(instance, start)

    @promise("rebuild")
    def test_a_rebuilt_instance_runs_and_calls_back_once(self) -> None:
        instance, called = self.lasting(), list[str]()
        missing = Image(id="no-such-image", name="no-such-image")

        def rebuild(image: Image) -> None:
            self.driver.rebuild(
                None,
                instance,
                image,
                [],
                None,
                [],
                lambda *_, **__: called.append("detach"),
                lambda *_, **__: called.append("attach"),
                network_info=[],
            )

        with refuses(*self.refusals):
            rebuild(missing)
        assert not called
        self._is(instance, PowerState.RUNNING)
        start = self.start_of(instance)
        rebuild(self.image)
        assert called == ["detach", "attach"]
        self.has_started(instance, start)
