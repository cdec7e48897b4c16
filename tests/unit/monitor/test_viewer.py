import asyncio

from stream_classifier.monitor.memory import News
from stream_classifier.monitor.viewer import MOST_EVENTS, MOST_FRAME_BYTES, Viewer


async def served(viewer):
    viewer.is_behind = False
    return await asyncio.wait_for(viewer.next(), 1)


def event(i):
    return News.of("event", {"n": i})


async def test_of_state_the_newest_waits_and_of_events_each_in_order():
    viewer = Viewer()
    for i in range(3):
        viewer.tell(News.of("alert", {"n": i}))
        viewer.tell(event(i))
    said, frame = await served(viewer)
    assert said == [event(0).text, event(1).text, event(2).text, News.of("alert", {"n": 2}).text]
    assert frame is None


async def test_a_slow_viewer_loses_the_oldest_samples_and_no_state():
    viewer = Viewer()
    piece = bytes(MOST_FRAME_BYTES // 4)
    for i in range(10):
        viewer.show(bytes([i]) + piece[1:])
    viewer.tell(event(0))
    said, frame = await served(viewer)
    assert said == [event(0).text]
    assert frame[0] == 6
    assert viewer.n_left_out == 6


async def test_a_viewer_that_missed_too_many_events_is_told_everything_anew():
    viewer = Viewer()
    viewer.is_behind = False
    for i in range(MOST_EVENTS):
        viewer.tell(event(i))
    assert not viewer.is_behind
    viewer.tell(event(MOST_EVENTS))
    assert viewer.is_behind


async def test_a_viewer_to_whom_nothing_is_to_be_said_waits():
    viewer = Viewer()
    viewer.is_behind = False
    waiting = asyncio.create_task(viewer.next())
    await asyncio.sleep(0)
    assert not waiting.done()
    viewer.show(b"frame")
    assert await asyncio.wait_for(waiting, 1) == ([], b"frame")
