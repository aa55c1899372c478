"""The simulator speaks the API's protocol as its reference says."""

from __future__ import annotations

import asyncio
import json
import uuid
import wave
from io import BytesIO
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from yarl import URL

from fetcher.simulator import OMIT, Fault, Serving, Simulator, populate_demo

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aioresponses import aioresponses

Session = aiohttp.ClientSession


@pytest.fixture
async def session() -> AsyncIterator[Session]:
    async with aiohttp.ClientSession(headers={"x-api-key": "k"}) as session:
        yield session


async def get_page(session: Session, sim: Simulator, query: str = "") -> Any:
    async with session.get(f"{sim.api_url}/denoise{query}") as response:
        assert response.status == 200
        return await response.json()


async def get_ids(session: Session, sim: Simulator, query: str = "") -> list[str]:
    return [record["id"] for record in await get_page(session, sim, query)]


async def get_stages(session: Session, sim: Simulator, job: str) -> list[dict[str, Any]]:
    async with session.get(f"{sim.api_url}/denoise/{job}/progress") as response:
        assert response.content_type == "text/event-stream"
        text = await response.text()
    return [json.loads(line.removeprefix("data: ")) for line in text.split("\n\n") if line]


# ---- the list ----------------------------------------------------------------------------


async def test_list_is_newest_first_and_pages_by_offset_and_limit(
    sim: Simulator, session: Session
) -> None:
    ids = sim.add_jobs(5)
    assert await get_ids(session, sim) == ids[::-1]
    assert await get_ids(session, sim, "?offset=1&limit=2") == [ids[3], ids[2]]
    assert await get_ids(session, sim, "?offset=5") == []
    assert sim.ids == ids[::-1]


async def test_record_has_the_documented_fields(sim: Simulator, session: Session) -> None:
    job = sim.add_job("مقابلة.MP4", size_bytes=32_044)
    (record,) = await get_page(session, sim)
    assert str(uuid.UUID(record["id"])) == job
    assert record["audio_url"].startswith(sim.host_url + "/")
    assert record["original_audio_url"].startswith(sim.host_url + "/")
    assert record["file_name"] == "مقابلة.MP4"
    assert (record["audio_format"], record["source_type"]) == ("mp4", "video")
    assert (record["audio_duration"], record["audio_size"]) == (1.0, 32_044)
    assert (record["status"], record["error"]) == ("success", None)
    assert record["created_at"].endswith("Z")
    assert set(record) >= {"user_id", "transaction_id", "updated_at"}


async def test_list_comes_bare_or_under_data(sim: Simulator, session: Session) -> None:
    job = sim.add_job()
    sim.envelope = True
    page = await get_page(session, sim)
    assert (page["statusCode"], page["message"]) == (200, "Success")
    assert [record["id"] for record in page["data"]] == [job]


@pytest.mark.parametrize("query", ["offset=-1", "offset=x", "limit=0", "limit=", "limit=1.5"])
async def test_query_that_is_no_number_is_400(sim: Simulator, session: Session, query: str) -> None:
    async with session.get(f"{sim.api_url}/denoise?{query}") as response:
        assert response.status == 400


@pytest.mark.parametrize(
    ("shape", "names"),
    [("code", {"errorCode", "errorMessage"}), ("status", {"statusCode", "message"})],
)
async def test_missing_key_is_401_in_both_shapes(
    sim: Simulator, shape: Any, names: set[str]
) -> None:
    sim.error_shape = shape
    async with Session() as keyless, keyless.get(f"{sim.api_url}/denoise") as response:
        assert response.status == 401
        assert set(await response.json()) == names


async def test_only_the_given_key_is_right(session: Session) -> None:
    async with Simulator(key="right") as sim:
        for key, status in (("wrong", 401), ("right", 200)):
            headers = {"x-api-key": key}
            async with session.get(f"{sim.api_url}/denoise", headers=headers) as response:
                assert response.status == status


async def test_page_cap_and_ignored_offset(sim: Simulator, session: Session) -> None:
    ids = sim.add_jobs(5)
    sim.page_cap = 2
    assert await get_ids(session, sim, "?limit=4") == [ids[4], ids[3]]
    sim.ignore_offset = True
    assert await get_ids(session, sim, "?offset=2") == [ids[4], ids[3]]


async def test_records_come_and_go_between_pages(sim: Simulator, session: Session) -> None:
    ids = sim.add_jobs(4)

    def on_list(number: int) -> None:
        if number == 2:
            sim.delete(ids[3])

    sim.on_list = on_list
    assert await get_ids(session, sim, "?limit=2") == [ids[3], ids[2]]
    assert await get_ids(session, sim, "?offset=2&limit=2") == [ids[0]]
    new = sim.insert(1)
    assert await get_ids(session, sim) == [ids[2], new, ids[1], ids[0]]


async def test_malformed_records_stand_where_they_are_put(sim: Simulator, session: Session) -> None:
    ids = sim.add_jobs(2)
    sim.add_raw({"id": 5}, position=1)
    sim.add_raw(b'"\\ud800"')
    sim.override(ids[0], status="weird", audio_url=7, error=OMIT)
    page = await get_page(session, sim)
    assert page[0] == "\ud800"
    assert page[2] == {"id": 5}
    assert (page[1]["id"], page[3]["id"]) == (ids[1], ids[0])
    assert (page[3]["status"], page[3]["audio_url"], "error" in page[3]) == ("weird", 7, False)


async def test_seed_decides_ids_and_contents() -> None:
    async def made(seed: int) -> tuple[str, bytes]:
        async with Simulator(seed) as sim:
            job = sim.add_job()
            return job, sim.content(job)

    first, again, other = await made(1), await made(1), await made(2)
    assert first == again
    assert first[0] != other[0]
    assert first[1] != other[1]


async def test_million_records_cost_nothing_until_asked(sim: Simulator, session: Session) -> None:
    explicit = sim.add_job()
    made = sim.generate(1_000_000, 100_000, pending=[5])
    assert await get_ids(session, sim, "?limit=3") == [explicit, made.id(0), made.id(1)]
    assert await get_ids(session, sim, "?offset=1000000&limit=5") == [made.id(999_999)]
    (pending,) = await get_page(session, sim, "?offset=6&limit=1")
    assert (pending["id"], pending["status"]) == (made.id(5), "pending")
    sim.finish(made.id(5))
    (done,) = await get_page(session, sim, "?offset=6&limit=1")
    async with session.get(URL(done["audio_url"], encoded=True)) as response:
        assert await response.read() == sim.content(made.id(5))
    assert sim.content(made.id(5)) != sim.content(made.id(6))
    assert len(sim.content(made.id(6))) == 100_000
    assert len({made.id(rank)[:8] for rank in range(5_000)}) == 5_000


# ---- jobs under way ----------------------------------------------------------------------


async def test_pending_job_finishes_by_itself(sim: Simulator, session: Session) -> None:
    job = sim.add_job(finishes_after_s=60)
    (record,) = await get_page(session, sim)
    assert (record["status"], record["audio_url"]) == ("pending", None)
    sim.advance(61)
    (record,) = await get_page(session, sim)
    assert (record["status"], sim.job(job).status) == ("success", "success")


async def test_failing_job_has_its_reason(sim: Simulator, session: Session) -> None:
    job = sim.add_job(fails_after_s=60, error="no speech")
    sim.advance(61)
    (record,) = await get_page(session, sim)
    assert (record["status"], record["error"]) == ("failed", "no speech")
    assert await get_stages(session, sim, job) == [{"stage": "error", "message": "no speech"}]


async def test_stream_tells_progress_and_then_the_link(sim: Simulator, session: Session) -> None:
    sim.progress_every_s = 0.01
    job = sim.add_job(finishes_after_s=1_000)
    async with session.get(f"{sim.api_url}/denoise/{job}/progress") as response:
        first = json.loads((await response.content.readline())[6:])
        sim.advance(500)
        await response.content.readline()
        while (stage := json.loads((await response.content.readline())[6:]))["pct"] < 50:
            await response.content.readline()
        sim.advance(501)
        last = json.loads((await response.content.read()).split(b"data: ")[-1])
    assert (first["stage"], round(first["pct"])) == ("processing", 0)
    assert (stage["stage"], round(stage["pct"])) == ("processing", 50)
    assert last == {"stage": "done", "url": sim.url(job), "denoiseId": job}


async def test_stream_says_at_once_what_a_script_does(sim: Simulator, session: Session) -> None:
    job = sim.add_job(status="pending")
    async with session.get(f"{sim.api_url}/denoise/{job}/progress") as response:
        assert b'"pct":0' in await response.content.readline()
        sim.progress(job, 40, "Removing wind")
        await response.content.readline()
        assert b'"pct":40,"message":"Removing wind"' in await response.content.readline()
        sim.finish(job)
        rest = await response.content.read()
    assert b'"stage":"done"' in rest
    assert sim.url(job).encode() in rest


async def test_unknown_job_has_no_stream(sim: Simulator, session: Session) -> None:
    async with session.get(f"{sim.api_url}/denoise/nobody/progress") as response:
        assert (response.status, response.content_type) == (404, "application/json")


async def test_submission_becomes_a_job(sim: Simulator, session: Session) -> None:
    form = aiohttp.FormData(quote_fields=False)
    form.add_field("audio", b"RIFF", filename="صوت.wav")
    async with session.post(f"{sim.api_url}/denoise", data=form) as response:
        job = (await response.json())["jobId"]
    (record,) = await get_page(session, sim)
    assert (record["id"], record["status"], record["file_name"]) == (job, "pending", "صوت.wav")
    sim.advance(60)
    assert sim.job(job).status == "success"
    assert sim.content(job) != sim.original(job)
    async with session.post(f"{sim.api_url}/denoise", data={"file": "x"}) as response:
        assert response.status == 400


# ---- audio -------------------------------------------------------------------------------


async def test_real_audio_plays_and_differs(sim: Simulator) -> None:
    first, second = sim.add_jobs(2, duration_s=1.5)
    with wave.open(BytesIO(sim.content(first))) as clean:
        assert clean.getnframes() / clean.getframerate() == 1.5
        assert (clean.getsampwidth(), clean.getnchannels()) == (2, 1)
    assert len({sim.content(first), sim.original(first), sim.content(second)}) == 3


@pytest.mark.parametrize("size_bytes", [0, 1, 59, 60, 4_000, 3_000_000])
async def test_filler_has_its_size_and_reads_alike_in_pieces(
    sim: Simulator, session: Session, size_bytes: int
) -> None:
    job = sim.add_job(size_bytes=size_bytes)
    async with session.get(URL(sim.url(job), encoded=True)) as response:
        body = await response.read()
    assert len(body) == size_bytes
    content = sim.job(job).result
    pieces = [content.read(at, at + 70_001) for at in range(0, size_bytes, 70_001)]
    assert b"".join(pieces) == sim.content(job) == body


async def test_demo_is_an_account_worth_looking_at(sim: Simulator) -> None:
    ids = populate_demo(sim)
    jobs = [sim.job(job) for job in ids]
    assert len(set(ids)) == 25
    assert sim.ids == ids[::-1]
    assert [job.status for job in jobs].count("pending") == 5
    assert [job.error for job in jobs if job.status == "failed"] == [sim.job(ids[19]).error]
    assert len({job.file_name for job in jobs}) < 20
    sim.advance(8.1)
    assert {sim.job(job).status for job in ids} == {"success", "failed"}


async def test_generated_job_can_be_reopened_and_finish_again(sim: Simulator) -> None:
    job = sim.generate(10, 1_000).id(3)
    sim.reopen(job, 60)
    assert sim.job(job).status == "pending"
    sim.advance(61)
    assert sim.job(job).status == "success"


async def test_port_that_is_taken_is_an_error_and_leaves_nothing_open(sim: Simulator) -> None:
    port = URL(sim.api_url).port
    assert port is not None
    with pytest.raises(OSError, match="address already in use"):
        async with Simulator(port=port):
            pass


# ---- the fixtures ------------------------------------------------------------------------


async def test_stops_quickly_while_answers_stall() -> None:
    async with aiohttp.ClientSession(headers={"x-api-key": "k"}) as session:
        async with Simulator() as sim:
            sim.faults.add(Fault(on="audio", stall_after_bytes=10))
            job = sim.add_job(serving=Serving(signed=False))
            response = await session.get(sim.url(job))
            assert await response.content.readexactly(10) == sim.content(job)[:10]
            started_s = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - started_s < 2
        assert asyncio.all_tasks() == {asyncio.current_task()}
        response.close()


async def test_aioresponses_serves_aiohttp(mocked_api: aioresponses, session: Session) -> None:
    mocked_api.get("http://api.test/denoise", payload=[1])
    async with session.get("http://api.test/denoise") as response:
        assert await response.json() == [1]
