"""Read again, bit by bit, what is published: disks forget.

A request verifies a generator's files at once, and the server looks at times and sizes. Damage that
changes neither shows only to who reads the bytes, and a consumer should not be the first.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from sluice.build import State
from sluice.control.objects import Key, Objects
from sluice.control.ports import ArtifactStore, Clock, Pools
from sluice.core.errors import StorageError

EVERY = 3600.0
"""Seconds from the start to the first round, and at least from one round to the next."""
PAUSE = 0.02
"""Seconds between two files at least, however small they are."""


async def keep_verifying(
    objects: Objects, store: ArtifactStore, pools: Pools, clock: Clock, rate: float, damaged: Callable[[Key], None]
) -> None:
    """Go round all published files for ever, at so many bytes a second on average; see `verify_all`."""
    while True:
        await clock.sleep(EVERY)
        await verify_all(objects, store, pools, clock, rate, damaged)


async def verify_all(
    objects: Objects, store: ArtifactStore, pools: Pools, clock: Clock, rate: float, damaged: Callable[[Key], None]
) -> None:
    """Read every file that a status names; tells `damaged` of each generator that lacks one.

    A damaged file is not served any more when this returns to it: a wrong one is worse than none.
    """
    for key in [generator.key for generator in objects.generators()]:
        generator = objects.generator(key)
        for item in generator.status.inventory if generator is not None else ():
            published = objects.artifact((item.namespace, item.name))
            artifact = published.artifact if published is not None else None
            size = (artifact.size if artifact is not None else None) or 0
            try:
                read = partial(store.verify, item.namespace, item.name, item.filename, item.digest, reread=True)
                state = await pools.io(read)
            except StorageError:
                state = State.CORRUPTED  # the next look tells what is wrong, where people see it
            if state is not State.PRESENT:
                damaged(key)
            await clock.sleep(max(size / rate, PAUSE))
