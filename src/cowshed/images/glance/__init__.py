"""The image service on a real Glance, through openstacksdk."""

from cowshed.images.glance.service import GlanceService

__all__ = ["GlanceService"]
