"""Fixed answers of any size from bare asyncio, where there is no nginx.

    python fixed_app.py PORT

POST /32 answers 32 zero bytes. It computes nothing and checks nothing.
"""

from __future__ import annotations

import asyncio
import sys

LARGEST_REQUEST_BYTES = 1 << 20


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers one connection until it ends."""
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            await reader.readexactly(int(head.partition(b"content-length:")[2].split()[0]))
            size = int(head.split()[1][1:])
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
            writer.write(bytes(size))
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def main() -> None:
    """Serves until it is stopped."""
    server = await asyncio.start_server(
        answer, "127.0.0.1", int(sys.argv[1]), limit=LARGEST_REQUEST_BYTES
    )
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
