"""``status`` and ``ack`` at a broker with an access list: who may look, and who may ask."""

import asyncio
import contextlib
import shutil
import time
from dataclasses import replace

import pytest

from stream_classifier.cli.ack import _command
from stream_classifier.errors import BrokerRefusedError, BrokerUnavailableError, SinkError
from stream_classifier.health import Facts, Ladder
from stream_classifier.signals import ChannelState, ChannelVerdict, SourceHealth, SourceState
from stream_classifier.sinks.broker import BrokerSettings
from stream_classifier.sinks.commands import CommandDesk
from stream_classifier.sinks.overview import look
from tests.integration.test_deployed_broker import Deployed
from tests.live_broker import BUILDER, STREAM, TOPICS, alert, free_port, publisher, step, until

pytestmark = [pytest.mark.broker, pytest.mark.timeout(60)]

ALERT_ID = "9f" * 16
both = pytest.mark.parametrize("protocol", ["5", "3.1.1"])


@pytest.fixture(scope="module")
def deployed(tmp_path_factory):
    for tool in ("openssl", "mosquitto_passwd", "bash"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    made = Deployed(tmp_path_factory.mktemp("asked"))
    made.broker.start()
    yield made
    made.broker.kill()


def all_well():
    now_s = time.monotonic()
    source = SourceHealth(state=SourceState.ATTACHED, measured_hz=256.0, samples=1)
    good = (ChannelVerdict("C3", ChannelState.GOOD, ()),)
    facts = Facts(now_s=now_s, source=source, last_sample_s=now_s, nominal_hz=256.0, channels=good)
    return BUILDER.health(Ladder().look(facts), counters={})


@contextlib.asynccontextmanager
async def classifier(settings, folder, *, listens=True):
    """A sink with a standing alert, and a desk behind it; yields what was done."""
    done = []

    async def acknowledge(alert_id):
        if alert_id != ALERT_ID:
            raise LookupError(alert_id)
        done.append(alert_id)
        return True

    async def spend(_nonce, _until):
        return True

    desk = CommandDesk(
        topic=TOPICS.commands,
        acknowledge=acknowledge,
        mute=done.append,
        spend=spend,
        answer=lambda command, payload: sink.answer(command, payload),  # noqa: PLW0108 - is made below
    )
    first = alert("ok", latest=replace(step(0), alert_id=ALERT_ID))
    work = asyncio.create_task(desk.work())
    async with publisher(
        settings, folder, first=first, on_command=desk.take if listens else None
    ) as sink:
        sink.health(all_well())
        await until(lambda: sink.counters.published >= 4)
        yield done
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)


async def ask(settings, **more):
    wanted = {"stream": STREAM, "alert_id": None, "minutes": None, "within_s": 3.0} | more
    return await _command(settings, **wanted)


@both
async def test_a_ward_sees_how_things_stand_and_may_ask_for_nothing(deployed, tmp_path, protocol):
    ward = replace(deployed.settings("ward"), protocol=protocol)
    async with classifier(deployed.settings("classifier"), tmp_path) as done:
        begun_s = time.monotonic()
        (standing,) = await look(ward, within_s=5.0)
        assert time.monotonic() - begun_s < 3.0  # as soon as there is no more to come
        assert (standing.name, standing.status, standing.verdict) == (STREAM, "online", "ok")
        assert standing.alert["on"] is True
        with pytest.raises(SinkError, match=r"access list|denied"):
            await ask(ward, within_s=1.0)
        assert not done


@both
async def test_an_operator_acknowledges_and_hears_the_answer(deployed, tmp_path, protocol):
    operator = replace(deployed.settings("operator"), protocol=protocol)
    async with classifier(deployed.settings("classifier"), tmp_path) as done:
        assert await ask(operator) == "alert 9f9f9f9f is acknowledged"
        assert "quiet is asked for" in await ask(operator, minutes=5)
        assert len(done) == 2
        with pytest.raises(SinkError, match="refused: no alert ffffffff stands"):
            await ask(operator, alert_id="f" * 32)


async def test_one_that_takes_no_commands_is_said_at_once(deployed, tmp_path):
    operator = deployed.settings("operator")
    async with classifier(deployed.settings("classifier"), tmp_path, listens=False) as done:
        begun_s = time.monotonic()
        with pytest.raises(SinkError, match=r"mqtt\.commands = true"):
            await ask(operator, within_s=30.0)
        assert time.monotonic() - begun_s < 10.0
        assert not done


async def test_a_broker_that_is_away_is_said_and_one_that_refuses_is_exit_code_5(deployed):
    with pytest.raises(BrokerUnavailableError, match="doctor"):
        await look(BrokerSettings(host="127.0.0.1", port=free_port()), within_s=1.0)
    with pytest.raises(BrokerRefusedError) as refused:
        await look(replace(deployed.settings("ward"), username=None, password=None), within_s=3.0)
    assert refused.value.exit_code == 5
