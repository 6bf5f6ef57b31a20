"""The gate before an engine: parts beside each other, one alone, and nobody waiting for ever."""

import asyncio

from semievol_ray.stages.gate import Gate


def test_gate_lets_many_in_together_and_one_alone_before_those_who_came_later() -> None:
    told = list[str]()

    async def enter(gate: Gate, name: str, *, alone: bool) -> None:
        async with gate.alone() if alone else gate.shared():
            told.append(f"+{name}")
            await asyncio.sleep(0.01)
            told.append(f"-{name}")

    async def all_of_them() -> None:
        gate = Gate()
        tasks = [asyncio.create_task(enter(gate, name, alone=name.isupper())) for name in ("a", "b", "C", "d", "E")]
        await asyncio.gather(*tasks)

    asyncio.run(asyncio.wait_for(all_of_them(), 5))
    assert told[:4] == ["+a", "+b", "-a", "-b"]
    assert [told[i + 1] for i, word in enumerate(told) if word in ("+C", "+E")] == ["-C", "-E"]
    assert told.index("+C") < told.index("+d")


def test_gate_opens_again_after_a_failure_inside() -> None:
    async def fail_then_enter() -> bool:
        gate = Gate()
        for door in (gate.alone, gate.shared):
            try:
                async with door():
                    raise KeyError
            except KeyError:
                pass
        async with gate.alone():
            return True

    assert asyncio.run(asyncio.wait_for(fail_then_enter(), 5))
