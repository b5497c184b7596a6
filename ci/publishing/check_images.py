"""`make check-images`: asks the registry for each image that the chart names, for amd64 and arm64."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from machine import environment
from registry_cache.model.pods import Images

from publishing.update import CannotReach, find_image

if TYPE_CHECKING:
    from collections.abc import Iterable

    from registry_cache.model.pods import Image


def missing_images(images: Iterable[Image], scheme: str = "https") -> list[str]:
    """Return what the registries say about the images that cannot be pulled by their digests."""
    found = []
    for image in images:
        registry, repository = find_image(image, scheme)
        try:
            registry.digest(repository, image.tag.partition("@")[2])
        except CannotReach as error:
            found.append(f"{image.reference}: {error}")
    return found


def main() -> int:
    """Check the images, and return 1 if one cannot be pulled."""
    environment.clean_process()
    missing = missing_images(image for _, image in Images())
    print(*missing or ["Each image is there for amd64 and arm64."], sep="\n")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
