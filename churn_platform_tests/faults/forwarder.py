"""A process that forwards TCP connections: python -m churn_platform_tests.faults.forwarder LISTEN=TARGET ...

Addresses are HOST:PORT. The embedded servers listen on the loopback interface and name it to their clients. In another
network namespace, that address is one of this process.
"""

import asyncio
import sys
from contextlib import suppress


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host, int(port)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    writer.close()


async def _serve(listen: str, target: str) -> None:
    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(*_address(target))
        except OSError:
            writer.close()
            return
        await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))

    server = await asyncio.start_server(forward, *_address(listen))
    await server.serve_forever()


async def _main(pairs: list[str]) -> None:
    await asyncio.gather(*(_serve(*pair.split("=")) for pair in pairs))


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1:]))
